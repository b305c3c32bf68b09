/** Where the server's own English speaks to the command line, and the page says it otherwise. */

import type { Wordings } from "./sentences";

export const sentences: Wordings = {
  "tuning.needs": ({ minutes }) => {
    const about = Math.ceil(Number(minutes));
    return (
      `The smallest search of this model takes about ${about} ${about === 1 ? "minute" : "minutes"}; ` +
      "with fewer formats or a shorter prompt it takes less."
    );
  },
};
