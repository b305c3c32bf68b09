import { describe, expect, it } from "vitest";
import { en } from "../words/en";
import { ja } from "../words/ja";
import { filled, type ErrorValues } from "./filling";

describe("a sentence with values", () => {
  const said = (values: ErrorValues): string =>
    filled("[{model} is|It is] full[ ({free_bytes} free)][, for {near}].", values, en);
  it("shows those that are known, and no holes", () => {
    expect(said({ model: "qwen", free_bytes: 1_500_000_000 })).toBe("qwen is full (1.5 GB free).");
    expect(said({})).toBe("It is full.");
    expect(said({ near: [] })).toBe("It is full.");
    expect(said({ near: ["a", "b"] })).toBe("It is full, for a, b.");
  });
  it("takes values as they are, whatever they hold", () => {
    expect(said({ model: "{near} [a|b] $&" })).toBe("{near} [a|b] $& is full.");
  });
});

describe("errors in Japanese", () => {
  const said = (code: string, values: ErrorValues = {}): string =>
    filled(ja.errors[code]!, values, ja).split("。")[0]!;
  it("say what they are about", () => {
    const model = "qwen2.5:0.5b";
    const digests = { actual: "a".repeat(64), expected: "b".repeat(64) };
    const cases: [string, ErrorValues, string][] = [
      ["model_not_found", { model: "qwn" }, "「qwn」というモデルはありません"],
      ["model_not_pulled", { model }, `${model} はまだ取得されていません`],
      [
        "context_length_exceeded",
        { prompt_tokens: 9000, requested_tokens: 500, context_tokens: 8192 },
        "コンテキストに収まりません（プロンプト 9,000＋回答 500、上限 8,192 トークン）",
      ],
      [
        "load_failed",
        { model, needed_bytes: 5.1e9, free_bytes: 4e9, pinned: ["a", "b"] },
        `${model} を読み込めませんでした：メモリが約 5.1 GB 必要ですが、使えるのは 4.0 GB です（固定中：a、b）`,
      ],
      [
        "disk_full",
        { needed_bytes: 5.1e9, free_bytes: 4e9 },
        "ディスクの空きが足りません（5.1 GB が必要、空きは 4.0 GB）",
      ],
      [
        "source_unavailable",
        { host: "huggingface.co", file: "x.gguf", status: 1503 },
        "huggingface.co から x.gguf を取得できません（HTTP 1503）",
      ],
      [
        "digest_mismatch",
        { file: "x.gguf", ...digests },
        "x.gguf の内容が約束されたものと異なるため、使いません（SHA-256 は aaaaaaaaaaaa…、約束は bbbbbbbbbbbb…）",
      ],
      ["store_busy", { model }, `${model} を別の処理が使用中です`],
      ["unavailable", { model }, `今は実行できません：${model} は使用中か固定されています`],
      [
        "licence_refused",
        { model, use: "serve", outcome: "NON-COMMERCIAL" },
        `ライセンスの方針により、${model} のこの利用は許可されていません（他者に提供する：非商用のみ）`,
      ],
      ["too_many_at_once", { key: "ada", most: 2 }, "キー ada の同時リクエスト数の上限（2 件）です"],
      ["rate_limit_exceeded", { key: "ada", most: 5000 }, "キー ada の毎分のトークン数（5,000）を使い切りました"],
      [
        "deadline_exceeded",
        { running: 4, waiting: 9 },
        "時間内に応答できませんでした：4 件が回答中、9 件が順番待ちでした",
      ],
      ["invalid_field", { field: "wishes.temperature", most: 2 }, "「温度」の値が正しくありません（2 以下）"],
      ["invalid_setting", { field: "models.0", most: 256 }, "「モデル」の値が正しくありません（256 以下）"],
      ["forbidden", { key: "ada", scopes: ["manage"] }, "キー ada では許可されていません（必要な許可：モデルとキーの管理）"],
    ];
    for (const [code, values, sentence] of cases) expect(said(code, values)).toBe(sentence);
  });
  it("are whole without any values", () => {
    for (const [code, sentence] of Object.entries(ja.errors)) {
      const text = filled(sentence, {}, ja);
      expect(text, code).not.toMatch(/[[\]{}|]|undefined|^[、：（はのを]|（）/);
      expect(text, code).toMatch(/。$/);
    }
  });
});
