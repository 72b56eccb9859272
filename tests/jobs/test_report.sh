#!/usr/bin/env bash
# t2 report: a page of real runs on the small model of our own, and of files that mean harm. Where
# there is a Chromium the page is looked at in it, at two widths, light and dark.
set -euo pipefail
# shellcheck source=tests/shell.sh
. "$(dirname "$0")/../shell.sh"

mini=${T2_SOURCE:?}/data/mini
cd "$scratch"
lacks() { # lacks "statement" FILE PATTERN
    check "$1" "$(grep -c -i -e "$3" "$2" || true)" -eq 0
}

# ---- a history of nights ------------------------------------------------------------------------
# nights N FACTOR DROP: N nights with 1 % noise; in the last, times grow by FACTOR, scores drop.
nights() {
    awk -v n="$1" -v factor="$2" -v drop="$3" -v seed="${4:-1}" 'BEGIN {
        srand(seed)
        for (d = 1; d <= n; d++) {
            last = d == n
            for (k = 0; k < 8; k++) {
                g = 0
                for (j = 0; j < 12; j++) g += rand()
                g = (g - 6) * 0.01
                name = k < 6 ? "phase" k ".seconds" : k == 6 ? "generate.tokens_per_second" : "task.score"
                value = k < 7 ? (k + 1) * (1 + g) * (last && k == 2 ? factor : 1) : 0.715 - (last ? drop : 0)
                printf "2026-01-%02d\tc%04d\t%s\t%.6g\n", d, d, name, value
            }
        }
    }'
}
quiet=0
for seed in 1 2 3 4 5 6 7 8 9 10; do
    nights $((6 + seed)) 1 0 $seed >calm.tsv
    t2 report --history calm.tsv --check
    quiet=$((quiet + (code == 0)))
done
check "ten undisturbed repeats raise no alarm" "$quiet" -eq 10
nights 12 1.2 0 >slow.tsv
t2 report --history slow.tsv --check
check "a phase that is 20 % slower is an alarm" "$code" -eq 3
contains "... that names it" "$out" "worse: phase2.seconds"
check "... and nothing else" "$(grep -c '^worse' <<<"$out")" -eq 1
nights 12 1 0.03 >drop.tsv
t2 report --history drop.tsv --check
contains "a score that drops by 3 points is an alarm" "$out" "worse: task.score"
check "... with an exit code of its own" "$code" -eq 3
nights 5 2 0.5 >young.tsv
t2 report --history young.tsv --check
check "a young history has nothing to compare with" "$code" -eq 0
contains "... and says so" "$out" "0 of them with 5 nights"
printf '2026-01-01\tc\tx.seconds\tmany\n' >bad.tsv
t2 report --history bad.tsv --check
contains "a bad line is named" "$err" "bad.tsv:1: 'many' is not a number"

# ---- answers that would like to be markup -------------------------------------------------------
mkdir -p data/mawps
export T2_DATA=$scratch/data
harm='</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>'
printf '{"id": "%s", "question": "%s", "answer": 4}\n' "$harm" "$harm ]]> &lt; \\u202e\\u0007" >data/mawps/test.jsonl
printf '{"id": "%s", "answer": "%s"}\n' "$harm" "=cmd() | $harm | \\u2028 \\u0000x 4" >given.jsonl
t2 eval --tasks mawps --grade given.jsonl --out "=harm'&lt;.h5"
check "hostile answers are graded" "$code" -eq 0
t2 report "=harm'&lt;.h5" --out harm.html --title '</title><script>'
check "... and reported" "$code" -eq 0
lacks "no script in the page" harm.html '<script'
lacks "no image" harm.html '<img'
lacks "no direction override" harm.html $'\xe2\x80\xae'
contains "the answer is there as text" "$(cat harm.html)" '&#60;script&#62;alert(1)&#60;/script&#62;'
contains "... under a policy that runs nothing" "$(cat harm.html)" "default-src 'none'"
t2 report "=harm'&lt;.h5" --format csv
contains "a spreadsheet gets no formulas" "$out" "\"'=harm'&lt;\""
t2 report "=harm'&lt;.h5" --format md
check "no markup in Markdown" "$(grep -c '<' <<<"$out" || true)" -eq 0
unset T2_DATA

# ---- a page of real runs ------------------------------------------------------------------------
limit=40
! sanitized || limit=6
t2 decompose "$mini" --modules all --out factors.h5 -q
train=(train "$mini" -f factors.h5 --modules all --batch 8 --steps 6 -q -t 1 --test-limit "$limit")
t2 "${train[@]}" --task sentiment --validate-every 3 --valid-limit 20 --out sentiment.h5
ranks 2 "${train[@]}" --task sentiment --validate-every 3 --valid-limit 20 --out two.h5
t2 "${train[@]}" --task add --objective next-token --out add.h5
t2 "${train[@]}" --task add --out add_pg.h5
t2 eval "$mini" --tasks sentiment,choice --limit $limit -q --out base.h5
t2 eval "$mini" --tasks sentiment,choice --limit $limit -q --adapter sentiment.h5 --out tuned.h5
two=(--experts "sentiment.h5,add_pg.h5" --factors factors.h5)
t2 adapt "$mini" "${two[@]}" --task reverse --per layer --iterations 2 --population 10 --shots 4 --test-limit 10 -t 1 -q --out mixed.h5
check "a mixture is made" "$code" -eq 0
t2 eval "$mini" "${two[@]}" --adapt prompt --tasks add,sentiment --limit 6 -q --out passes.h5
check "... and two passes" "$code" -eq 0
t2 transfer add_pg.h5 --factors factors.h5 --order shuffled --out moved.h5 -q
t2 eval "$mini" --tasks add,sentiment --limit 6 -q --adapter moved.h5 --factors factors.h5 --out moved_scores.h5
check "... and a transfer" "$code" -eq 0
t2 eval "$mini" --tasks reverse --limit 6 -q --adapter mixed.h5 --factors factors.h5 --out mixed_scores.h5
check "... and its scores" "$code" -eq 0
files=(base.h5 tuned.h5 passes.h5 moved_scores.h5 mixed_scores.h5 sentiment.h5 two.h5 add.h5 add_pg.h5 moved.h5 mixed.h5 factors.h5)
t2 report "${files[@]}" --history slow.tsv --out page.html --items 5
check "a page is made" "$code" -eq 0
page=$(cat page.html)
for id in runs scores curves phases spectra similarity adaptation scaling history paper items; do
    contains "it has the section $id" "$page" "<section id=\"$id\">"
done
for n in table-1 table-2 table-3 table-4 table-5 table-7 table-8 table-9 table-10 figure-4 figure-6 figure-7 figure-9 figure-10 figure-11; do
    contains "it has the paper's $n" "$page" "<section id=\"$n\">"
done
contains "a section without runs says which would fill it" "$page" "Filled by experts of other kinds"
check "five items of each task" "$(grep -c '<dt>prompt' page.html)" -eq 45
# section ID: its text in the page.
section() { awk -v id="<section id=\"$1\">" 'index($0, id) { on = 1 } on { print } on && /<\/section>/ { exit }' page.html; }
contains "table 2 has strategies" "$(section table-2)" "<td>prompt</td>"
contains "... and mixtures" "$(section table-2)" "<td>uniform</td>"
contains "table 3 has the share of pass one" "$(section table-3)" " %</td>"
contains "table 4 has the objectives" "$(section table-4)" "<td>next-token</td>"
contains "table 5 has other tasks" "$(section table-5)" "<td>sentiment</td>"
contains "table 9 has the expert's own" "$(section table-9)" "<td>add</td>"
contains "figure 6 has domains" "$(section figure-6)" "review"
contains "figure 7 has a row a layer" "$(section figure-7)" "<td>layer 4</td>"
check "... once, though two files know it" "$(section figure-7 | grep -c '<td>layer 4</td>')" -eq 1
t2 report base.h5 mixed_scores.h5 --out alone.html
contains "results alone show the weights that they were made with" "$(cat alone.html)" "<td>layer 4</td>"
check "every link has its place" "$(grep -o 'href="#[^"]*"' page.html | sort -u | while IFS='#"' read -r _ _ id; do
    grep -q "id=[\"']${id}[\"']" page.html || echo "$id"
done)" = ""
check "no id stands twice" "$(grep -o "[ <]id=[\"'][^\"']*[\"']" page.html | sort | uniq -d)" = ""
lacks "nothing comes from elsewhere" page.html 'src=\|url(\|@import\|<link'

lora=(train "$mini" --adapter lora --modules qv --batch 8 --steps 3 -q -t 1 --test-limit 6 --task add)
t2 "${lora[@]}" --objective reinforce --rate 1e-3 --out lora_pg.h5
t2 "${lora[@]}" --out lora.h5
t2 report lora.h5 --format md
contains "LoRA by next-token prediction fills table 7" "$(sed -n '/^### Table 7/,/^### Table 8/p' <<<"$out")" "| lora | next-token |"
contains "... and not figure 9, which names the run" "$(sed -n '/^### Figure 9/,/^### Figure 10/p' <<<"$out")" "compare-lora-pg.ini"
t2 report lora_pg.h5 --format md
contains "LoRA by policy gradient fills both" "$(sed -n '/^### Table 7/,/^### Table 8/p' <<<"$out")" "| lora | reinforce |"
contains "... with its rate" "$(sed -n '/^### Figure 9/,/^### Figure 10/p' <<<"$out")" "0.001"

figures=$(grep -o '<svg' page.html | wc -l)
if command -v gnuplot >/dev/null; then
    check "figures are drawn" "$figures" -ge 14
    lacks "... in the page's colours alone" page.html "black\|rgb( \|rgb(0"
else
    echo "SKIPPED: gnuplot is not installed, figures are not looked at"
fi
code=0
PATH=/nonexistent "$T2_BINARY" report "${files[@]}" --out plain.html 2>plain.err || code=$?
check "without gnuplot the page is made" "$code" -eq 0
contains "... and says what is missing" "$(cat plain.err)" "gnuplot is not installed"
lacks "... and has no figures" plain.html '<svg'

t2 report "${files[@]}" --format md
contains "Markdown" "$out" "| base | sentiment |"
t2 report "${files[@]}" --format csv
contains "CSV" "$out" '"scores","every task'
t2 report "${files[@]}" --format json --out page.json
contains "JSON" "$(cat page.json)" '"id": "scores"'
if [ -x /usr/bin/python3 ]; then
    check "... which parses" "$(/usr/bin/python3 -c 'import json; print(len(json.load(open("page.json"))["sections"]) > 20)')" = True
fi
t2 report "${files[@]}" --format json --out again.json
check "the same files make the same page" "$(cmp page.json again.json 2>&1)" = ""

# ---- what goes wrong ----------------------------------------------------------------------------
t2 report
check "files must be given" "$code" -eq 2
t2 report absent.h5
contains "an absent file is named" "$err" "absent.h5: No such file"
t2 report "$T2_SOURCE/README.md"
contains "another file is refused" "$err" "README.md: not a readable HDF5 file"
for file in base.h5 sentiment.h5 factors.h5; do
    head -c $(($(stat -c %s $file) * 2 / 3)) $file >cut.h5
    t2 report cut.h5 --out cut.html
    check "a truncated $file is an error" "$code" -eq 1
    check "... and leaves no page" ! -e cut.html
done
check "a page is not half written" "$( (ulimit -f 8 && "$T2_BINARY" report "${files[@]}" --out page.html) >/dev/null 2>&1 || cmp page.html <(printf '%s\n' "$page") 2>&1)" = ""

# ---- in a browser -------------------------------------------------------------------------------
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
    echo "SKIPPED: no Chromium is installed, the page is not looked at in a browser"
    finish
    exit
fi
look() { "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/profile" "$@" 2>/dev/null; }
# A copy with a script that measures what is seen.
sed -e '/Content-Security-Policy/,/">/d' -e 's|</body>|<script>addEventListener("load",()=>{const b=e=>e.getBoundingClientRect();const s=[...document.querySelectorAll("figure svg")];document.title="overflow="+(document.documentElement.scrollWidth>innerWidth)+" figures="+s.filter(e=>b(e).width>250\&\&b(e).height>140\&\&b(e).right<=innerWidth).length+"/"+s.length+" back="+getComputedStyle(document.body).backgroundColor+" ink="+getComputedStyle(document.querySelector("svg text")\|\|document.body).fill})</script></body>|' page.html >measured.html
for width in 1280 520; do
    for scheme in light dark; do
        preferred=1
        [ $scheme = dark ] && preferred=0
        seen=$(look --window-size=$width,900 --blink-settings=preferredColorScheme=$preferred --dump-dom "file://$PWD/measured.html" | grep -o '<title>[^<]*' || true)
        contains "$width wide, $scheme: nothing sticks out" "$seen" "overflow=false"
        contains "... and all figures are seen" "$seen" "figures=$figures/$figures"
        back="back=rgb(251, 251, 250) ink=rgb(31, 35, 40)"
        [ $scheme = dark ] && back="back=rgb(21, 24, 28) ink=rgb(228, 231, 235)"
        contains "... in its colours" "$seen" "$back"
    done
    look --window-size=$width,1600 --screenshot="$PWD/$width.png" "file://$PWD/page.html" >/dev/null || true
    check "a screenshot $width wide has a page on it" "$(stat -c %s $width.png 2>/dev/null || echo 0)" -gt 40000
done
if [ -n "${T2_KEEP:-}" ]; then
    cp page.html ./*.png "$T2_KEEP/"
fi
finish
