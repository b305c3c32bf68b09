/** Where the server's own English speaks to the command line, and the page says it otherwise. */

import type { Wordings } from "./sentences";

export const sentences: Wordings = {
  "tuning.needs": ({ minutes }) =>
    `The smallest search of this model takes about ${Math.ceil(Number(minutes))} minutes; ` +
    "with fewer formats or a shorter prompt it takes less.",
};
