import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [svelte()],
  build: {
    outDir: "../src/freehold/web_page",
    emptyOutDir: true,
    target: "es2023",
    // A data: address is no file of ours, and the policy of the page allows those for images only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // With `npx vite`, beside a running server.
  server: { proxy: { "^/(v1|api|freehold|tokenize|docs)": "http://127.0.0.1:7333" } },
  test: { include: ["src/**/*.test.ts"] },
});
