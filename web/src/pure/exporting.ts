/** A branch as Markdown, to be kept or sent on. */

import type { Heading, Message } from "../api/conversations";

export function asMarkdown(heading: Heading, branch: readonly Message[]): string {
  const parts = [`# ${heading.title.replace(/\s+/g, " ")}`];
  if (heading.system) parts.push("## System", heading.system);
  for (const message of branch) {
    parts.push(message.role === "user" ? "## User" : `## ${message.model ?? "Assistant"}`);
    for (const file of message.files) parts.push(`### ${file.name}`, fenced(file.text));
    if (message.reasoning) parts.push(quoted(message.reasoning));
    if (message.content) parts.push(message.content);
  }
  return parts.join("\n\n") + "\n";
}

function quoted(text: string): string {
  return text.trim().split("\n").map((line) => `> ${line}`.trimEnd()).join("\n");
}

function fenced(text: string): string {
  let fence = "```";
  while (text.includes(fence)) fence += "`";
  return `${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}

/** A name for the file: letters and digits of any script, and hyphens. */
export function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
}
