/** How the page looks to this browser: language and colours. Neither says anything of its user. */

import { en, type Words } from "../words/en";
import { ja } from "../words/ja";

export const LANGUAGES: readonly Words[] = [en, ja];
export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

function remembered(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // forbidden in this browser
  }
}

function remember(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // it holds until the page is left
  }
}

function firstLanguage(): Words {
  const wanted = [remembered("language"), ...navigator.languages];
  for (const each of wanted) {
    const found = LANGUAGES.find(({ code }) => each?.toLowerCase().startsWith(code));
    if (found) return found;
  }
  return en;
}

class Appearance {
  #words = $state.raw(firstLanguage());
  #theme = $state<Theme>(THEMES.find((theme) => theme === remembered("theme")) ?? "system");

  get words(): Words {
    return this.#words;
  }
  get theme(): Theme {
    return this.#theme;
  }
  speak(code: string): void {
    this.#words = LANGUAGES.find((words) => words.code === code) ?? en;
    remember("language", this.#words.code);
    this.show();
  }
  colour(theme: Theme): void {
    this.#theme = theme;
    remember("theme", theme);
    this.show();
  }
  /** Tell the document. */
  show(): void {
    document.documentElement.lang = this.#words.code;
    document.documentElement.dataset["theme"] = this.#theme;
  }
}

export const appearance = new Appearance();

/** The words of the language chosen; read where they are shown, they follow a change. */
export const words = (): Words => appearance.words;
