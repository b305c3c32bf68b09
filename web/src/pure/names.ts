/** Whether a key may be called so: it stands in logs and commands, where a space would end it. */
export const isKeyName = (name: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name);
