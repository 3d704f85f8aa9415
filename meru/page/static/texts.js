// What the page says, in two languages. Texts of the server (errors, captions, names) are shown as they are.

export const LANGUAGES = { en: "en", zh: "zh-CN" };
const OTHER = { en: { name: "中文", code: "zh-CN" }, zh: { name: "English", code: "en" } };
const STORED = "meru-language";

let language = "en";
let texts = {};
let plural = new Intl.PluralRules("en");

/** The language of the address, else the one chosen last, else the browser's. */
export function preferredLanguage(asked) {
  let stored = null;
  try {
    stored = localStorage.getItem(STORED);
  } catch {
    // Storage may be blocked; the browser's language is then the best guess.
  }
  const wanted = [asked, stored, ...(navigator.languages || [])].map((code) => (code || "").slice(0, 2));
  return wanted.find((code) => code in LANGUAGES) || "en";
}

/** Loads a language and puts it into all marked elements of the document. */
export async function useLanguage(code, { remember = false } = {}) {
  const answer = await fetch(new URL(`texts.${code}.json`, import.meta.url));
  if (!answer.ok) throw new Error(`texts.${code}.json: ${answer.status}`);
  texts = await answer.json();
  language = code;
  plural = new Intl.PluralRules(LANGUAGES[code]);
  document.documentElement.lang = LANGUAGES[code];
  try {
    if (remember) localStorage.setItem(STORED, code);
  } catch {
    // As above.
  }
  translate();
}

export const currentLanguage = () => language;

/** The text of a key, with {names} replaced by values. A text with forms is chosen by the number `count`. */
export function say(key, values = {}) {
  let text = texts[key] ?? key;
  if (typeof text === "object") text = text[plural.select(values.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === "number" ? formatNumber(value) : (value ?? whole);
  });
}

/** A number as the language writes it, with a true minus sign. */
export function formatNumber(value, digits) {
  const format = new Intl.NumberFormat(LANGUAGES[language], {
    minimumFractionDigits: digits ?? 0,
    maximumFractionDigits: digits ?? 2,
  });
  return format.format(value).replace("-", "−");
}

export const formatPercent = (share) => new Intl.NumberFormat(LANGUAGES[language], { style: "percent" }).format(share);

function translate() {
  document.title = say("title");
  const other = document.getElementById("language");
  // The button is written in the language that it switches to.
  other.textContent = OTHER[language].name;
  other.lang = OTHER[language].code;
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = say(element.dataset.hint);
}
