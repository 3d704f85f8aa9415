"""Headings, units and kinds of values in Chinese, for docs/keys.zh-CN.md."""

from __future__ import annotations

from meru.configuration.kinds import (
    Architecture,
    Choice,
    Either,
    FilePath,
    Flag,
    Kind,
    ListOf,
    Number,
    Section,
    Template,
    Text,
    Whole,
)

HEAD = """# 配置键

由 `python scripts/document_keys.py` 根据 meru/configuration 和 configs/ 生成，请勿手动修改。英文版：[keys.md](keys.md)。

命令行写法：`key=value`；所选文件中没有的键写作 `+key=value`（两个塔、日志与优化器的键不需要加号）；`~key` 删去一个键。任何值都在开始做事之前检查。整数不带小数点：
`4.0` 不是整数。数不能是 NaN 或无穷。相对路径从当前目录算起，`~` 是主目录；路径和文本按原样读取，可以含中文、空格（需为 shell 加引号）、
方括号和逗号。列表写作 `'data.crop_scale=[0.5,1.0]'`。使用 `--multirun` 时逗号分隔多个值，因此含逗号的值自己还要加引号：`'folder="a,b"'`。

*默认值*：不选配方时的值；`experiment=…` 的配方会另设一些值，加上 `--cfg job` 可以看到一条命令最终得到的配置。configs/ 中各文件不同时，
值取决于所选的文件，这里列出几个。*续训*："固定"表示续训时不能改成别的值，"生效"表示新的值从续训起生效。

要在 configs/ 中加一个键，先在 meru/configuration/declarations.py 和 chinese.py 中各写一行。
"""
HEADINGS = {
    "": "不属于任何小节的键",
    "trainer": "trainer：训练多久，怎样训练",
    "evaluation": "evaluation：评测指标",
    "data": "data：图像、描述、批次",
    "encoder": "encoder：两个编码器",
    "model": "model：模型",
    "loss": "loss：各项损失的权重和设置",
    "parts": "parts：批次中除图像和描述以外的内容，用于 model=hycoclip 和 model=uncha",
    "discovery": "discovery：类别发现，用于 model=simgcd、hypgcd 和 hypcd",
    "optim": "optim：优化器和学习率",
    "logger": "logger：日志",
}
COLUMNS = {
    "key": "键",
    "default": "默认值",
    "allowed": "取值",
    "resume": "续训",
    "meaning": "含义",
    "fixed": "固定",
    "acts": "生效",
    "figures": "trainer.monitor 可选的指标",
    "evaluate": "scripts/evaluate.py",
    "class": "按类别的数据集（描述中提到部位的数据集还有 `pointing/…`）：",
    "identity": "行人数据集：",
}
UNITS = {
    "validations": "次验证",
    "batches": "批", "blocks": "块", "captions": "条描述", "cells": "格", "classes": "类", "dimensions": "维", "epochs": "轮",
    "images": "张图像", "of 255": "以 255 分之一为单位", "operations": "个操作", "patches": "个图像块", "persons": "人", "pixels": "像素", "points": "点",
    "probability": "概率", "processes": "个进程", "red, green, blue": "红、绿、蓝", "seconds": "秒", "share": "比例",
    "samples": "个样本", "streams": "个数据流", "share of the highest": "占最高学习率的比例", "shares": "比例", "shares of the box": "占边界框的比例", "steps": "步",
    "tokens": "个词元", "triplets": "个三元组", "units": "个单元", "views": "个视图",
}  # fmt: skip


def allowed(kind: Kind) -> str:
    """What a key of that kind may be, as `Kind.allowed` says it in English."""
    if isinstance(kind, Whole):
        return f"{'整数' if kind.step == 1 else f'{kind.step} 的倍数'}，{kind.least} 到 {kind.most}"
    if isinstance(kind, Number):
        if kind.least == kind.most:
            return f"{kind.least:.10g}"
        if not (kind.above or kind.below):
            return f"数，{kind.least:.10g} 到 {kind.most:.10g}"
        low, high = "大于" if kind.above else "不小于", "小于" if kind.below else "不大于"
        return f"数，{low} {kind.least:.10g}，{high} {kind.most:.10g}"
    if isinstance(kind, ListOf):
        count = f"{kind.least} 个值" if kind.least == kind.most else f"至少 {kind.least} 个值" if kind.least else "个数不限"
        order = "，小的在前" * kind.ascending + "，互不相同" * kind.different
        return f"列表，如 {kind.example}：{count}，每个为{allowed(kind.item)}{order}"
    if isinstance(kind, Either):
        return "，或 ".join(allowed(each) for each in kind.kinds)
    if isinstance(kind, Choice):
        *others, last = kind.words
        return f"{'、'.join(others)} 或 {last}" if others else last
    return PLAIN_KINDS.get(kind.allowed) or PLAIN_KINDS[type(kind)]


PLAIN_KINDS = {
    Flag: "true 或 false",
    FilePath: "路径",
    Text: "文本",
    Template: "用 {} 代替类别名的句子",
    Architecture: "层数、宽度和头数，如 L12_W512_A8，宽度是头数的倍数（不写 A8 时是 64 的倍数），最大 L200_W16384",
    Section: "一节键",
    "the path of a folder": "文件夹的路径",
    "the path of a file": "文件的路径",
    "the path of a file or folder": "文件或文件夹的路径",
    "the name of a column": "列名",
    "paths or addresses of tar files": "tar 文件的路径或网址",
    "endings joined by ;": "扩展名，用 ; 连接",
    "an ending, or json.<key>": "扩展名，或 json.<键>",
    "json.<key>, or <beginning>*": "json.<键>，或 <开头>*",
    "the name of an encoding": "编码的名称",
    "the dotted path of a class or function": "类或函数的点分路径",
    "a figure of the validation split": "验证集上的一个指标",
    "a tag of open_clip": "open_clip 的权重标签",
    "a number, a text, true, false, or a list or section of such": "数、文本、true、false，或由它们组成的列表或小节",
}
