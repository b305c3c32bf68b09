/** The names in a list that a person has typed, separated by commas or spaces. */
export function namesIn(text: string): string[] {
  return text.split(/[\s,、]+/).filter((name) => name !== "");
}
