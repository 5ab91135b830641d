//! The pages, in a real browser: whole, quiet, and nobody else's.

use std::fs;
use std::path::{Path, PathBuf};

use blackstart_lab::demo::{self, deploy, example};
use blackstart_lab::{Browser, Scheme, World};
use serde_json::{Value, json};

/// Opened, it complained of nothing and asked for nothing but itself.
fn is_quiet(browser: &Browser, page: &Path) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.requests(), [format!("file://{}", page.display())]);
}

/// Used, it went on complaining of nothing and asking for nothing.
fn stays_quiet(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.requests(), Vec::<String>::new());
}

#[test]
fn a_complaint_that_comes_late_is_noticed() {
    let world = World::new("htmllate");
    let script = "document.querySelector('button').onclick = () => nothing.there()";
    let page = format!(
        "<!doctype html><title>late</title><link rel=icon href=data:,><button>x</button><script>{script}</script>"
    );
    let page = world.file("late.html", &page);
    let browser = Browser::start();
    browser.open(&page, Scheme::Light, 800, 600);
    is_quiet(&browser, &page);
    browser.evaluate("document.querySelector('button').click()");
    let complaints = browser.complaints();
    assert!(
        complaints.len() == 1 && complaints[0].contains("nothing is not defined"),
        "{complaints:?}"
    );
    // One that nobody asked for fails whatever comes next.
    browser.evaluate("document.querySelector('button').click()");
    let opened = std::panic::AssertUnwindSafe(|| browser.open(&page, Scheme::Light, 800, 600));
    assert!(std::panic::catch_unwind(opened).is_err());
}

fn number(browser: &Browser, expression: &str) -> u64 {
    let value = browser.evaluate(&format!("return {expression}"));
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{expression} is {value}"))
}

fn text(browser: &Browser, expression: &str) -> String {
    let value = browser.evaluate(&format!("return {expression}"));
    value
        .as_str()
        .unwrap_or_else(|| panic!("{expression} is {value}"))
        .to_owned()
}

/// However a table is laid out, to whoever hears it it is one.
fn is_a_table(browser: &Browser, id: &str) {
    let rows = number(
        browser,
        &format!("document.querySelectorAll('#{id} tr').length"),
    );
    let columns = number(
        browser,
        &format!("document.querySelectorAll('#{id} thead th').length"),
    );
    let roles = browser.roles(&format!("#{id}"));
    let of = |role: &str| roles.iter().filter(|it| *it == role).count() as u64;
    let wanted = (rows, columns, rows - 1, (rows - 1) * (columns - 1));
    assert_eq!(
        (of("row"), of("columnheader"), of("rowheader"), of("cell")),
        wanted,
        "{roles:?}"
    );
}

/// Nothing sticks out of the window sideways, and nothing of the drawing lies on something else.
fn is_laid_out(browser: &Browser) {
    assert_eq!(
        number(browser, "document.documentElement.scrollWidth"),
        number(browser, "innerWidth")
    );
    let overlaps = browser.evaluate(
        "const boxes = [...document.querySelectorAll('.tile rect')].map(r => r.getBoundingClientRect());
         const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
         return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => !apart(a, b))).length;",
    );
    assert_eq!(overlaps, 0);
    let crowded = browser.evaluate(
        "return [...document.querySelectorAll('.axis')].filter(axis => {
             const ends = [...axis.querySelectorAll('text')].map(t => t.getBoundingClientRect());
             const room = axis.getBoundingClientRect();
             return ends.some((it, i) => it.right > room.right + 1 || (i > 0 && it.left < ends[i - 1].right + 2));
         }).length",
    );
    assert_eq!(crowded, 0);
    // Letters are as wide as was thought when the boxes were made.
    let wide = browser.evaluate(
        "return [...document.querySelectorAll('.tile')].filter(t =>
            t.querySelector('text').getBBox().width > t.querySelector('rect').getBBox().width).length",
    );
    assert_eq!(wide, 0);
}

#[test]
fn a_report_is_a_page() {
    let world = demo::world("html");
    let (run, json_file, page) = deploy(&world, "enforce");
    let run = run.exits(1);
    let document: Value = serde_json::from_slice(&fs::read(json_file).unwrap()).unwrap();
    assert_eq!(document["schema_version"], 1, "both forms were written");

    let browser = Browser::start();
    browser.open(&page, Scheme::Light, 1280, 900);
    is_quiet(&browser, &page);
    is_laid_out(&browser);

    // The sentence of the summary, and the circles.
    let sentence = text(&browser, "document.querySelector('h1').textContent");
    assert!(
        sentence.contains("reached for") && sentence.contains("refused"),
        "{sentence}"
    );
    let run = run.warns(&format!("blackstart: {sentence}"));
    let loops = run.findings("loop").len() as u64;
    assert_eq!(loops, 3);
    assert_eq!(
        number(&browser, "document.querySelectorAll('.card .steps').length"),
        loops
    );
    let kinds = browser.evaluate(
        "return [...document.querySelectorAll('.verdicts .tag')].map(t => t.textContent).sort()",
    );
    assert_eq!(
        kinds,
        json!(["direct loop", "hidden loop", "transient loop"])
    );

    // The drawing: its circle stands out.
    let drawn = browser.evaluate(
        "return [...document.querySelectorAll('.tile.loop title')].map(t => t.textContent).sort()",
    );
    assert_eq!(drawn, json!(["github", "migrations", "mysql"]));
    let needs = browser.evaluate(
        "return [...document.querySelectorAll('.line.loop title')].map(t => t.textContent.split(':')[0]).sort()",
    );
    let wanted = [
        "github needs mysql",
        "migrations needs github",
        "mysql needs github",
        "mysql needs migrations",
    ];
    assert_eq!(needs, json!(wanted));
    let stroke = |line: &str| {
        text(
            &browser,
            &format!("getComputedStyle(document.querySelector('{line} path')).stroke"),
        )
    };
    assert_ne!(stroke(".line.loop"), stroke(".line:not(.loop)"));
    let words = text(
        &browser,
        "document.querySelector('#graph-words').textContent",
    );
    assert!(
        wanted
            .iter()
            .all(|need| words.contains(&format!("On a circle: {need}"))),
        "{words}"
    );

    is_a_table(&browser, "t-destinations");
    is_a_table(&browser, "t-processes");
    filters_and_sorts(&browser);
    zooms(&browser);
    stays_quiet(&browser);
    browser.screenshot("report-light");

    browser.open(&page, Scheme::Dark, 1280, 900);
    is_quiet(&browser, &page);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let dark = text(&browser, ground);
    browser.screenshot("report-dark");
    browser.open(&page, Scheme::Light, 390, 844);
    is_quiet(&browser, &page);
    is_laid_out(&browser);
    assert_ne!(text(&browser, ground), dark);
    browser.screenshot("report-narrow");

    let bare = without_script(&world, &page);
    browser.open(&bare, Scheme::Light, 1280, 900);
    assert_eq!(
        number(
            &browser,
            "document.querySelectorAll('.filter:not([hidden])').length"
        ),
        0
    );
    assert!(
        number(
            &browser,
            "document.querySelectorAll('#t-destinations tbody tr').length"
        ) > 3
    );
    browser.screenshot("report-without-script");
}

/// The same page without its script.
fn without_script(world: &World, page: &Path) -> PathBuf {
    let whole = fs::read_to_string(page).unwrap();
    let (before, rest) = whole.split_once("<script>").unwrap();
    let (_, after) = rest.split_once("</script>").unwrap();
    world.file("bare.html", &format!("{before}{after}"))
}

/// From the keyboard, as far as a reader would use it.
fn filters_and_sorts(browser: &Browser) {
    let shown = "[...document.querySelectorAll('#t-destinations tbody tr')].filter(r => r.offsetParent).length";
    let all = number(browser, shown);
    browser.evaluate("document.querySelector('#destinations input').focus()");
    browser.type_text("GitHub.com");
    let some = number(browser, shown);
    assert!(0 < some && some < all, "{some} of {all}");
    let count = "document.querySelector('#destinations output')";
    assert_eq!(
        text(browser, &format!("{count}.textContent")),
        format!("{some} of {all} destinations")
    );
    assert_eq!(
        text(browser, &format!("{count}.getAttribute('aria-live')")),
        "polite"
    );
    browser.type_text(" no such word");
    assert_eq!(number(browser, shown), 0);
    browser.evaluate(
        "const input = document.querySelector('#destinations input');
         input.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }));",
    );
    assert_eq!(number(browser, shown), all);
    browser.evaluate(
        "const select = document.querySelector('#destinations select');
         select.value = 'refused would'; select.dispatchEvent(new Event('change'));",
    );
    let refused = number(browser, shown);
    assert!(0 < refused && refused < all, "{refused} of {all}");
    browser.evaluate(
        "const select = document.querySelector('#destinations select');
         select.value = ''; select.dispatchEvent(new Event('change'));",
    );

    let sorted = browser.evaluate(
        "const head = [...document.querySelectorAll('#t-destinations thead th')].find(h => h.textContent === 'Attempts');
         head.querySelector('button').click();
         const at = head.cellIndex;
         const values = [...document.querySelectorAll('#t-destinations tbody tr')].map(r => Number(r.cells[at].dataset.v));
         return [head.getAttribute('aria-sort'), values.every((v, i) => i === 0 || values[i - 1] >= v), values.length];",
    );
    assert_eq!(sorted, json!(["descending", true, all]));
    // Whoever comes by the keyboard sees where they are.
    let outline = browser.evaluate(
        "const first = document.querySelector('#t-destinations thead button'); first.focus({ focusVisible: true });
         return getComputedStyle(first).outlineStyle",
    );
    assert_eq!(outline, "solid");
    let labelled = "[...document.querySelectorAll('thead th')].every(h => h.scope === 'col' && (h.textContent || h.querySelector('[aria-label]')))";
    assert_eq!(browser.evaluate(&format!("return {labelled}")), true);
}

fn zooms(browser: &Browser) {
    let width = "Math.round(document.querySelector('.scroll svg').getBoundingClientRect().width)";
    let before = number(browser, width);
    browser.evaluate("document.querySelector('[data-zoom=in]').click()");
    let larger = number(browser, width);
    assert!(larger > before, "{before} {larger}");
    browser.evaluate(
        "document.querySelector('.scroll').dispatchEvent(new KeyboardEvent('keydown', { key: '0', bubbles: true }))",
    );
    assert_eq!(number(browser, width), before);
}

#[test]
fn the_graph_is_a_page() {
    let world = demo::world("htmlgraph");
    let (run, report, _) = deploy(&world, "observe");
    run.exits(0);
    let (catalog, report) = (example("catalog"), report.display().to_string());
    let ended = world.guard().blackstart(&[
        "graph",
        "export",
        "--to",
        "html",
        "--catalog",
        &catalog,
        "--runs",
        &report,
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let page = world.file("graph.html", &ended.stdout);

    let browser = Browser::start();
    browser.open(&page, Scheme::Light, 1280, 900);
    is_quiet(&browser, &page);
    is_laid_out(&browser);
    assert_eq!(
        number(&browser, "document.querySelectorAll('.line.loop').length"),
        4
    );
    let rows =
        "[...document.querySelectorAll('#t-services tbody tr')].filter(r => r.offsetParent).length";
    let all = number(&browser, rows);
    browser.evaluate("document.querySelector('#services input').focus()");
    browser.type_text("team-git");
    assert_eq!((number(&browser, rows), all), (1, 5));
    zooms(&browser);
    browser.evaluate("document.querySelector('#t-services thead button').click()");
    stays_quiet(&browser);
    browser.screenshot("graph-light");
    browser.open(&page, Scheme::Dark, 1280, 900);
    is_quiet(&browser, &page);
    browser.screenshot("graph-dark");
}

#[test]
fn strangers_texts_stay_texts() {
    let world = World::new("htmlhostile");
    let page = world.dir().join("out.html");
    let markup = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>";
    let order = "left\u{202e}thgir\u{1b}[31m";
    let script = "/bin/true \"$1\"; getent hosts 'a<b>.example' || true";
    world
        .guard()
        .arg(&format!("--report={}", page.display()))
        .arg("--service=<b>mysql</b>")
        .run(&["sh", "-c", script, order, markup])
        .exits(0);

    let browser = Browser::start();
    browser.open(&page, Scheme::Light, 1280, 900);
    is_quiet(&browser, &page);
    assert!(!text(&browser, "document.title").contains("owned"));
    assert_eq!(
        number(&browser, "document.querySelectorAll('img').length"),
        0
    );
    assert_eq!(
        number(&browser, "document.querySelectorAll('script').length"),
        1
    );
    assert_eq!(number(&browser, "document.querySelectorAll('b').length"), 0);
    let body = text(&browser, "document.body.textContent");
    assert!(
        body.contains("</script><script>document.title='owned'"),
        "{body}"
    );
    assert!(body.contains("left\\u{202e}thgir\\x1b[31m"), "{body}");
    assert!(!body.contains('\u{202e}') && !body.contains('\u{1b}'));
}

#[test]
fn an_ending_that_is_none_is_told_before_anything_runs() {
    let world = World::new("htmlending");
    let made = world.dir().join("made");
    world
        .guard()
        .arg("--report=out.htm")
        .run(&["touch", &made.display().to_string()])
        .exits(125)
        .warns("neither .json nor .html");
    assert!(!made.exists());
}
