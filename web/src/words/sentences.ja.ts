/**
 * Sentences of the server in Japanese, by their codes. What has none here is shown in English.
 * Names, titles and quoted lines stay as they are.
 */

import type { Shown, Wordings } from "./sentences";

const number = (value: Shown): string => Number(value).toLocaleString("ja", { maximumFractionDigits: 1 });
const percent = (value: Shown): string => `${Math.round(100 * Number(value))} %`;

const RANKS: Record<string, string> = {
  "licence file": "ライセンスファイル",
  card: "モデルカード",
  "file header": "ファイルのヘッダー",
  catalogue: "カタログ",
};
const USES: Record<string, string> = { run: "自分で使うこと", serve: "他者に提供すること" };
const rank = (value: Shown): string => RANKS[value ?? ""] ?? value ?? "";
const madeFrom = (release: Shown, parent: Shown, title: Shown): string =>
  `${release} は ${title} の ${parent} から作られています`;
const enforceable = "を、モデルを渡す相手や提供する相手全員に、強制力のある条件として課し、適用される旨を伝える。";

export const sentences: Wordings = {
  // What keeps a model from fitting.
  "plan.no_architecture": () => "メモリと速度を見積もれません：構造が不明です。",
  "plan.architecture": ({ architecture }) =>
    `メモリと速度を見積もれません：構造 ${architecture} には対応していません。`,
  "plan.lacking": ({ what }) => `メモリと速度を見積もれません：${what} がありません。`,
  "plan.quantisation": ({ quantisation }) =>
    `メモリと速度を見積もれません：${quantisation} には対応していません。`,
  "plan.unknown": ({ why, weights }) => `${why}重みは ${weights} です。`,
  "plan.source": () => "カタログに取得できるファイルがありません。",
  "plan.task": ({ known, task }) => `用途は ${known} で、${task} ではありません。`,
  "plan.licence": ({ use, outcome }) => `ライセンス上、${USES[use ?? ""] ?? use}：${outcome}`,
  "plan.context": ({ has, wanted }) =>
    `学習時のコンテキストは ${number(has)} トークンで、${number(wanted)} には足りません。`,
  "plan.prompt": ({ prompt, context }) =>
    `${number(prompt)} トークンのプロンプトで、${number(context)} トークンのコンテキストが埋まります。`,
  "plan.memory": ({ wanted, short }) => `メモリ ${wanted} が必要：${short} 不足`,
  "plan.memory_beside_cards": ({ wanted, short, layers }) =>
    `GPU上の ${layers} 層のほかにメモリ ${wanted} が必要：${short} 不足`,
  "plan.disk": ({ wanted, short }) => `ファイルは ${wanted}：ディスクが ${short} 不足`,
  "plan.tokens_per_second": ({ has, wanted }) =>
    `一人あたりの推定は毎秒 ${number(has)} トークンで、${number(wanted)} に届きません。`,
  "plan.first_token": ({ has, wanted }) =>
    `最初のトークンまでの推定は ${number(has)} 秒で、${number(wanted)} 秒を超えます。`,

  // What an estimate rests on.
  "basis.nameplates": ({ read, rate }) =>
    `1ステップの読み取り ${number(read)} MB を、公称値と通常の達成率による ${number(rate)} GB/s で割ったもの。実測は含みません`,
  "basis.measured": ({ read, share, bandwidth, day }) =>
    `1ステップの読み取り ${number(read)} MB。${day} に測定した ${number(bandwidth)} GB/s の ${percent(share)} に相当し、形式ごとに測定したコストによります`,
  "basis.parts": ({ parts }) => `${parts}`,
  "basis.formats": ({ formats }) => `${formats} は、測定済みで最も遅い形式と同じとみなしています`,
  "basis.attention": () => "この種類のキャッシュでのアテンションは測定していません",
  "basis.company": ({ share }) => `測定時に使えたのはコアの時間の ${percent(share)} でした`,
  "basis.threads": ({ measured, threads }) =>
    `${threads} スレッドではなく ${measured} スレッドで測定しました`,
  "basis.repacked": () => "並べ替えた重みで測定しました",
  "basis.recurrent": () => "再帰層はバイト数で数えています",
  "basis.catalogue": () => "モデルの数値はカタログの項目によります",

  // What a search for the best settings remarks.
  "tuning.goes_on": () => "前回停止したところから続けています。",
  "tuning.no_gain": ({ format }) => `${format} ではここでは速くなりません。`,
  "tuning.needs": ({ minutes }) =>
    `このモデルでは、最小の探索に約 ${Math.ceil(Number(minutes))} 分かかります。形式を減らすか、プロンプトを短くすると早く終わります。`,
  "tuning.several_files": () => "複数のファイルに分かれた重みは再量子化せず、設定だけを調整します。",
  "tuning.quantised_already": ({ format }) =>
    `重みはすでに量子化されています（${format}）。再量子化では、そのときの損失に上乗せされます。`,
  "tuning.better_source": ({ reference, format, why }) =>
    `再量子化は、ここにある最良の重み ${reference}（${format}）から行います（${why}）。損失はそれとの比較で、現在の重みの損失も示します。`,
  "tuning.left_out": ({ format, why }) => `${format} は除外しました：${why}`,
  "tuning.not_calibrated": ({ why }) => `このマシンの上限は測定できませんでした：${why}`,

  // What is missing of a lineage.
  "gap.parents": ({ release, count }) => `${release} は ${count} 個の元モデルを挙げており、多すぎてたどれません。`,
  "gap.circle": ({ release, parent }) => `${release} が元とする ${parent} は循環しています。`,
  "gap.depth": ({ release, most }) => `${release} の元モデルは ${most} 世代を超えています。`,
  "gap.ancestors": ({ release }) => `${release} の元モデルは多すぎて、すべてはたどれません。`,
  "gap.unread": ({ release }) => `${release} についての情報がありません。`,
  "gap.base_unread": ({ release, parent }) =>
    `${release} は ${parent} を元としていますが、それについての情報がありません。`,

  // Why a verdict is what it is.
  "evidence.file": ({ origin }) => `ライセンスファイル（${origin}）`,
  "evidence.file_is": ({ file, licence }) => `${file} は ${licence}`,
  "evidence.label": ({ rank: place, origin, label }) =>
    `${rank(place)}（${origin}）の記載は「${label === "no licence" ? "ライセンスなし" : label}」`,
  "verdict.under": ({ release, title }) => `${release} のライセンスは ${title} です。`,
  "verdict.under_because": ({ release, title, terms }) =>
    `${release} のライセンスは ${title} です。${terms}`,
  "verdict.not_read": ({ title, sources }) =>
    `${title} の本文は確認していません。内容は次の資料によります：${sources}`,
  "verdict.silent": ({ release }) => `${release} のライセンスが見つかりませんでした。`,
  "verdict.silent_copy": ({ release }) =>
    `${release} のライセンスが見つかりませんでした。量子化やコピーには元のライセンスが適用されます。`,
  "verdict.names_none": ({ release, evidence }) =>
    `${release}：${evidence}で、ライセンスが特定されていません。`,
  "verdict.not_known": ({ release, evidence }) =>
    `${release}：${evidence}で、ここでは未知のライセンスです。頼る前に本文を確認してください。`,
  "verdict.empty": ({ release, evidence }) =>
    `${release}：${evidence}は空です。空のファイルは何も許諾しません。`,
  "verdict.no_such_text": ({ release, evidence }) =>
    `${release}：${evidence}は、ここで知られているどの本文とも一致しません。一文だけ異なる場合もあるため、確認してください。`,
  "verdict.two_names": ({ release, evidence, licences }) =>
    `${release}：${evidence}で、二つは異なるライセンスです（${licences}）。`,
  "verdict.disagree": ({ release, first, second }) =>
    `${release}：${first}ですが、${second}で、二つは異なるライセンスです。`,
  "verdict.unlike_parent": ({ release, licence, parent, theirs }) =>
    `${release} の表示は ${licence}、${parent} は ${theirs} です。量子化やコピーで許諾が増えることはないため、どちらかの表示が誤りか古いものです。`,
  "verdict.unlike_parent_changed": ({ release, licence, parent, theirs, change }) =>
    `${release} の表示は ${licence}、${parent} は ${theirs} です。量子化やコピーで許諾が増えることはないため、どちらかの表示が誤りか古いものです。${change}`,
  "verdict.no_adaptations": ({ release, parent, title }) =>
    `${madeFrom(release, parent, title)}：改変したものは渡せません。`,
  "verdict.label_does_not_say": ({ release, parent, title, label }) =>
    `${madeFrom(release, parent, title)}が、表示（${label}）にはその記載がありません。`,
  "verdict.name": ({ release, parent, title, prefix }) =>
    `${madeFrom(release, parent, title)}。名前を「${prefix}」で始める必要がありますが、そうなっていません。`,
  "verdict.name_and_label": ({ release, parent, title, prefix, label }) =>
    `${madeFrom(release, parent, title)}。名前を「${prefix}」で始める必要がありますが、そうなっておらず、表示（${label}）にもそのライセンスが含まれていません。`,
  "override.deepseek_mit": ({ child, parent }) =>
    `両方の権利者である DeepSeek は、${parent} から学習した ${child} のコードと重みを MIT License で公開しています。`,
  "change.phi2": () =>
    "Microsoft は phi-2 を最初は研究用ライセンスで公開し、後に MIT License に改めました。以前のコピーには最初の表示が残っています。",
  "change.yi": () =>
    "01.AI は Yi モデルを独自のコミュニティライセンスで公開し、2024年5月以降はコードと重みを Apache License 2.0 で提供しています。",

  // What a licence says of itself.
  "terms.unread": () => "名称のみ知られており、本文は確認していません。",
  "terms.ends_on_patent_suit": () => "モデルに関する特許で訴訟を起こすと終了します。",
  "terms.no_patents": () => "特許権や商標権は許諾されません。",
  "terms.modified_mit": () =>
    "MIT License に一項を加えたもので、きわめて大規模な商用製品ではモデル名の表示が必要です。",
  "terms.attribution": () => "モデルを共有する場合は必ずクレジット表示が必要です。",
  "terms.share_alike": () => "モデルから作って共有するものは、同じライセンスでなければなりません。",
  "terms.no_adaptations": () => "改変したものは共有できません。",
  "terms.mpl": () => "対象のファイルにはこのライセンスが引き続き適用され、ソースの入手を可能にする必要があります。",
  "terms.gpl": () => "それから作って渡すものは、ソースとともに同じライセンスでなければなりません。",
  "terms.agpl": () =>
    "それから作ったものは、ネットワーク経由の利用者に対しても、ソースとともに同じライセンスでなければなりません。",
  "terms.meta_policy": () => "すべての利用に Meta の Acceptable Use Policy が適用されます。",
  "terms.meta_policy_not_eu": () =>
    "すべての利用に Meta の Acceptable Use Policy が適用され、この版のマルチモーダルモデルの権利は EU の個人と企業には与えられません。",
  "terms.llama2": ({ family }) =>
    `コピーには本文と表示が必要で、${family} の公開時に月間利用者が7億人を超える製品を持っていた者は Meta の許諾を要します。`,
  "terms.llama": ({ shown, family }) =>
    `${shown} の名称の表示、コピーへの本文と表示の添付が必要で、${family} の公開時に月間利用者が7億人を超える製品を持っていた者は Meta の許諾を要します。`,
  "terms.llama4": () =>
    "Acceptable Use Policy により、マルチモーダルモデルの権利は EU の個人と企業には（製品の最終利用者を除き）与えられません。Llama 4 はマルチモーダルです。",
  "terms.attachment": () => "Attachment A に挙げられた用途を禁じています。",
  "terms.attachment_passed_on": () =>
    "Attachment A に挙げられた用途を禁じ、モデルを渡す者や提供する者に、それを強制力のある条件として課すことを求めています。",
  "terms.attachment_restricts": () =>
    "Attachment A に挙げられた用途を禁じ、権利者は遠隔などの手段で利用を制限できます。",
  "terms.attachment_equivalent": () =>
    "Attachment A に挙げられた用途を禁じ、モデルを渡す者や提供する者に、同じまたは同等の制限を課すことを求めています。",
  "terms.gemma_run": () =>
    "Google の Prohibited Use Policy に挙げられた用途を禁じ、違反していると Google が考える場合は、遠隔などの手段で利用を制限できます。",
  "terms.gemma_serve": () =>
    "Google の Prohibited Use Policy に挙げられた用途を禁じ、モデルを渡す者や提供する者に、それを強制力のある条件として課すことを求めています。",
  "terms.falcon2_run": () =>
    "すべての利用と出力に、いつでも変わりうる Acceptable Use Policy が適用されます。",
  "terms.falcon2_serve": () =>
    "すべての利用に、いつでも変わりうる Acceptable Use Policy が適用され、それを強制力のある条件として課す必要があります。",
  "terms.falcon_run": () =>
    "この名称には複数の版があります。確認した版では、すべての利用に Acceptable Use Policy が適用されます。",
  "terms.falcon_serve": () =>
    "この名称には複数の版があります。確認した版では、Acceptable Use Policy を以後の契約すべてに含める必要があります。",
  "terms.health_ai": () => "独自の利用方針があり、臨床での利用が制限されています。",
  "terms.hunyuan": () => "EU、英国、韓国では適用されません（利用できません）。",
  "terms.qwen": () =>
    "コピーへの表示、別のモデルを作る際の Qwen の名称の表示が必要で、月間利用者が1億人を超える製品には個別の許諾を要します。",
  "terms.improve_no_other": () => "このモデルや出力を使ってほかの大規模言語モデルを改良することを禁じています。",
  "terms.tongyi": () =>
    "コピーへの表示が必要で、月間利用者が1億人を超える製品には個別の許諾を要します。",
  "terms.research_and_evaluation": () => "研究と評価のみが認められています。",
  "terms.mrl_run": () =>
    "出力も含め、個人的・科学的・学術的な研究のみが認められています。企業のための作業は含まれません。",
  "terms.mrl_serve": () =>
    "出力も含め研究のみが認められています。営利企業は、無償であってもモデルを渡したり提供したりできません。",
  "terms.mnpl": () => "名称とほかの資料によれば、実運用での利用は除かれています。",
  "terms.research_only": () => "出力も含め、研究のみが認められています。",
  "terms.research_only_improve_none": () =>
    "出力も含め研究のみが認められ、それを使ったほかのモデルの開発や改良は禁じられています。",
  "terms.exaone": () => "この名称には複数の版があります。確認した版（1.1 - NC）では研究のみが認められています。",
  "terms.named_research": () => "名称とそれを使うカードは、研究用とのみ述べています。",
  "terms.non_commercial": () => "商業的な利益や金銭を主な目的としない利用のみが認められています。",
  "terms.non_commercial_share_alike": () =>
    "商業的な利益や金銭を主な目的としない利用のみが認められ、それから作ったものは同じライセンスでなければなりません。",
  "terms.non_commercial_no_adaptations": () =>
    "商業的な利益や金銭を主な目的としない利用のみが認められ、改変したものは共有できません。",
  "terms.nvidia_run": () =>
    "モデルの安全策を弱めると自動的に終了し、すべての利用に NVIDIA の Trustworthy AI の条件が適用されます。",
  "terms.nvidia_serve": () =>
    "コピーには本文と表示が必要で、モデルの安全策を弱めたり、それに関して訴訟を起こしたりすると自動的に終了します。",
  "terms.stability": () =>
    "商用利用は登録が必要で、年間売上100万米ドルを超えると終了します。すべての利用に Acceptable Use Policy が適用されます。",
  "terms.family_version": () => "これはライセンス群の名称で、版が示されていません。",
  "terms.family_clauses": () => "これはライセンス群の名称で、どの条項かが示されていません。",
  "terms.family_cc": () =>
    "これはライセンス群の名称です。商用利用を禁じるものや、改変を禁じるものがあります。",
  "terms.family_uses": () => "これはライセンス群の名称です。禁じる用途はそれぞれ異なります。",

  // What one must do.
  "duty.keep_permission": ({ licence }) =>
    `重みのコピーすべてに、著作権表示と ${licence} の許諾文を残す。`,
  "duty.apache": () =>
    "重みとともに Apache License 2.0 の写しを渡し、著作権・特許・商標・帰属の表示（NOTICE ファイルがあればそれも）を残す。",
  "duty.mark_changes": () => "変更したファイルに、変更した旨を記す。",
  "duty.bsd": () => "重みのコピーすべてに、著作権表示、BSD の条件、免責事項を残す。",
  "duty.no_endorsement": () => "書面による許可なく、権利者の名前を自作物の推奨に使わない。",
  "duty.openmdw": () => "重みとともに OpenMDW 契約の写しと、著作権と出所の表示を残す。",
  "duty.modified_mit_name": () =>
    "最後の条項の規模（月間利用者1億人、または記載の売上）を超える商用製品では、画面にモデル名を目立つように表示する。",
  "duty.modified_mit_copy": () =>
    "重みのコピーすべてに、著作権表示と、最後の条項を含むライセンス全文を残す。",
  "duty.attribute_and_changes": ({ licence }) =>
    `求められた方法で作者を表示し、著作権とライセンスの表示を残し、${licence} にリンクし、変更点を示す。`,
  "duty.attribute": ({ licence }) =>
    `求められた方法で作者を表示し、著作権とライセンスの表示を残し、${licence} にリンクする。`,
  "duty.no_further_terms": ({ licence }) =>
    `${licence} が認めることを妨げる条件や技術的手段を加えない。`,
  "duty.share_alike_or_compatible": ({ licence }) =>
    `それから作ったものを ${licence} または互換とされたライセンスで提供する。`,
  "duty.share_alike": ({ licence }) => `それから作ったものを ${licence} で提供する。`,
  "duty.unchanged_only": () => "変更していないコピーだけを渡す。",
  "duty.mpl": () =>
    "MPL 2.0 のファイルには引き続き MPL 2.0 を適用し、表示を残し、ソースの入手先を受け手に伝える。",
  "duty.gpl": ({ licence }) =>
    `重みとともに ${licence} の本文と、変更に適した形の対応するソースを渡し、それから作ったもの全体を ${licence} で提供する。`,
  "duty.network_source": () =>
    "変更した場合は、ネットワーク経由で使うすべての人に対応するソースを提供する。",
  "duty.keep_to_policy": ({ policy, link }) => `${policy}（${link}）に従う。`,
  "duty.keep_to_policy_of_the_day": ({ policy, link }) => `その時点の ${policy}（${link}）に従う。`,
  "duty.improve_no_other": ({ family }) =>
    `${family} とその派生以外の大規模言語モデルの改良に、このモデルや出力を使わない。`,
  "duty.give_copy": ({ licence }) => `重みとともに ${licence} の写しを渡す。`,
  "duty.give_copy_keep_and_mark": ({ licence }) =>
    `重みとともに ${licence} の写しを渡し、表示を残し、変更したファイルにその旨を記す。`,
  "duty.give_copy_and_mark": ({ licence }) =>
    `重みとともに ${licence} の写しを渡し、変更したファイルにその旨を記す。`,
  "duty.notice_file": ({ line }) => `Notice という名前のファイルに次の文を入れる：「${line}」`,
  "duty.give_copy_and_notice_file": ({ licence, line }) =>
    `重みとともに ${licence} の写しを渡し、Notice という名前のファイルに次の文を入れる：「${line}」`,
  "duty.begin_name": ({ prefix }) => `モデルの名前を「${prefix}」で始める。`,
  "duty.show": ({ line }) =>
    `関連するページ、画面、または文書に「${line}」と目立つように表示する。`,
  "duty.attachment": ({ licence }) => `${licence} の Attachment A に挙げられた用途に使わない。`,
  "duty.pass_on_attachment": ({ licence }) => `${licence} の Attachment A ${enforceable}`,
  "duty.gemma_pass_on": () => `Gemma Terms の3.2節の利用制限${enforceable}`,
  "duty.bigcode_pass_on": () =>
    "Attachment A の制限、または同等の制限を、モデルを渡す相手や提供する相手全員に、強制力のある条件として課す。",
  "duty.bigcode_copy": () =>
    "重みとともに BigCode Open RAIL-M License の写しを渡し、表示とモデルカードを残し、変更点を元と同程度に文書化する。",
  "duty.pass_on_policy": () =>
    "Acceptable Use Policy を、モデルを渡す相手全員に、強制力のある条件として課す。",
  "duty.say_publicly": ({ line }) => `公の場で述べるたびに次の文を添える：「${line}」`,
  "duty.falcon_version": () =>
    "Falcon License のどの版が適用されるかを確認し、その Acceptable Use Policy に従う。",
  "duty.read_health_ai": () =>
    "使う前に Health AI Developer Foundations Terms とその利用方針を読む。",
  "duty.read_hunyuan": () =>
    "モデルに付属する版の Tencent Hunyuan License で、地域、Acceptable Use Policy、利用者数の上限を確認する。",
  "duty.show_qwen": () =>
    "文書に「Built with Qwen」または「Improved using Qwen」と目立つように表示する。",
  "duty.research_or_evaluation": () =>
    "研究または評価にのみ使い、それ以外には権利者の許諾を求める。",
  "duty.research_not_commercial": () => "モデルと出力を、商業活動以外の研究にのみ使う。",
  "duty.say_modified": () =>
    "モデルを変更した旨を目立つように示し、Mistral AI の推奨があるように見せない。",
  "duty.testing_only": ({ licence }) =>
    `試験と研究にのみ使い、その前に ${licence} を読む。`,
  "duty.research_improve_none": () =>
    "モデルと出力を研究にのみ使い、それでほかのモデルを改良しない。",
  "duty.exaone_version": () =>
    "EXAONE License のどの版が適用されるかを確認し、研究にのみ使う。",
  "duty.research_read": () => "研究にのみ使い、モデルに付属するライセンスを読む。",
  "duty.guardrails": () =>
    "モデルの安全策を回避・無効化・弱体化せず、NVIDIA の Trustworthy AI の条件（https://www.nvidia.com/en-us/agreements/trustworthy-ai/terms/）に従う。",
  "duty.cosmos": () =>
    "Cosmos モデルまたはそれから作ったものでは「Built on NVIDIA Cosmos」と表示する。",
  "duty.stability_register": () =>
    "商用利用の前に Stability AI に登録し（https://stability.ai/community-licence）、年間売上が100万米ドルに達したらやめる。",
  "duty.stability_policy": () =>
    "Stability AI の Acceptable Use Policy（https://stability.ai/use-policy）に従い、モデルや出力で基盤生成モデルを作ったり改良したりしない。",
  "duty.stability_show": () =>
    "「Powered by Stability AI」と目立つように表示し、契約書の写しを渡す。",
  "duty.add_text": ({ release, licence, title }) =>
    `ライセンス本文の不足：${release} の表示は ${licence} ですが、本文が付属していません。コピーすべてに ${title} を付ける。`,
  "duty.add_text_and_holder": ({ release, licence, title }) =>
    `ライセンス本文の不足：${release} の表示は ${licence} ですが、本文が付属していません。コピーすべてに ${title} と権利者の著作権表示（確認した資料には記載がありません）を付ける。`,
  "duty.add_holder": ({ release }) =>
    `著作権表示の不足：${release} のライセンス本文に権利者の名前がありません。権利者を調べ、その表示をコピーすべてに残す。`,
};
