"""What a file that does not decode as an image is."""

from __future__ import annotations

from PIL import UnidentifiedImageError


def what_is_wrong(content: bytearray, error: Exception) -> str:
    """What a file that cannot be decoded is, or the error of its reader."""
    start = bytes(content[:512])
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not content:
        return "does not decode, it is empty: fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "does not decode, it is a Git LFS pointer: run `git lfs pull`"
    if start.startswith(b"/annex/") or b".git/annex/objects" in start:
        return "does not decode, it is a git-annex pointer: run `git annex get`"
    if start.startswith((b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")):
        return "does not decode, it is an AppleDouble file that macOS left behind, not an image: delete it"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "does not decode, it is a web page, not an image: fetch it again"
    if text.startswith(b"<svg") or b"<svg" in text:
        return "does not decode, it is an SVG drawing, which has no pixels: convert it to PNG"
    if text.startswith((b"<?xml", b"{", b"[")):
        return "does not decode, it is text, perhaps a server's error message, not an image: fetch it again"
    if start[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"):
        return "does not decode, it is a HEIC image, which is not supported: convert it to JPEG"
    if start.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "does not decode, it is an EPS drawing, which is not supported: convert it to PNG"
    if not any(content):
        return "does not decode, it contains only zeros: its download was cut off, fetch it again"
    if isinstance(error, UnidentifiedImageError):
        return "does not decode, it is not an image of a known kind"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"does not decode ({reason})"
