/** Where a link of a model's may lead: to the web or to a mail program, and only when followed. */
export function safeAddress(address: string): string | null {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  return URL.canParse(address) ? address : null;
}
