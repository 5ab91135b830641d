//! Measures how fast a large report opens and filters in a browser.
//!
//! `blackstart-bench-html DIR`: a guarded run reaches for 2,000 destinations with 5,000 processes and closes 50 circles,
//! and its page, with the drawing and a card for each finding, is opened in Chromium again and again. Prints the bars, and writes the raw figures to `DIR/DATE-html.json`.
//!
//! `BLACKSTART_BIN` says which binary writes the page. Exit code 1 if a bar is missed.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use blackstart_lab::bench::machine;
use blackstart_lab::{Browser, Scheme, World, Zone};
use serde_json::{Value, json};

const DESTINATIONS: usize = 2_000;
const PROCESSES: usize = 5_000;
/// Of these, each provides one destination and needs what is deployed.
const SERVICES: usize = 50;
const OPENINGS: usize = 11;
/// Milliseconds.
const LIMIT: f64 = 1_000.0;

/// In the page, before anything of it: when it was loaded and two frames of it were shown.
const WATCH: &str =
    "addEventListener('load', () => requestAnimationFrame(() => requestAnimationFrame(
    () => { window.opened = performance.now(); })));";

/// What somebody types, letter by letter; the time until the frame after each letter was shown.
const FILTER: &str = "
    document.querySelector(`#${section}`).scrollIntoView();
    const input = document.querySelector(`#${section} input`);
    const rows = [...document.querySelectorAll(`#t-${section} tbody tr`)];
    const all = rows.length;
    const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const times = [];
    let fewest = all;
    for (const word of [...Array(text.length + 1).keys()].map(n => text.slice(0, n + 1)).concat('')) {
        await frame();
        const begin = performance.now();
        input.value = word;
        input.dispatchEvent(new Event('input'));
        await frame();
        times.push(performance.now() - begin);
        fewest = Math.min(fewest, rows.filter(row => !row.hidden).length);
    }
    const back = rows.filter(row => !row.hidden).length;
    return { times, all, fewest, back };";

fn main() -> ExitCode {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("blackstart-bench-html: say where the results are to be written");
        return ExitCode::from(2);
    };
    let world = World::new("benchhtml");
    let page = large_page(&world);
    let browser = Browser::start();
    browser.watch(WATCH);

    let mut openings = Vec::new();
    let mut busy = Vec::new();
    let mut filters = Vec::new();
    for _ in 0..OPENINGS {
        browser.open(&page, Scheme::Light, 1280, 900);
        openings.push(number(&browser.evaluate(
            "while (window.opened === undefined) await new Promise(done => setTimeout(done, 5));
             return window.opened",
        )));
        busy.push(browser.main_thread());
        for (section, text, rows) in [
            ("destinations", "n1234.", DESTINATIONS),
            ("processes", "true 4321", PROCESSES),
        ] {
            let body = format!("const section = '{section}', text = '{text}'; {FILTER}");
            let measured = browser.evaluate(&body);
            let count = |key: &str| measured[key].as_u64().expect("a count of rows");
            assert!(count("all") >= rows as u64, "{measured}");
            // The same digits may stand in a process id or a time.
            assert!((1..50).contains(&count("fewest")), "{measured}");
            assert_eq!(count("back"), count("all"), "{measured}");
            let times = measured["times"].as_array().expect("a list of times");
            filters.extend(times.iter().map(number));
        }
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let count = |selector: &str| {
        let counted = browser.evaluate(&format!(
            "return document.querySelectorAll('{selector}').length"
        ));
        counted.as_u64().expect("a count of elements")
    };
    let (tiles, cards) = (count(".tile"), count(".card"));
    let loops = count(".card .steps");
    assert!(
        tiles > 40 && loops >= SERVICES as u64 && cards > loops,
        "{tiles} {loops} {cards}"
    );
    let size = std::fs::metadata(&page).expect("the page is there").len();

    let bars = [("opens", &openings), ("filters after a letter", &filters)];
    let mut met = true;
    for (what, times) in bars {
        // The median, as for all that is timed here: the first page of a browser that was just started waits for
        // fonts and compilers too. The longest is told, and kept with the rest.
        let middle = median(times);
        let most = times.iter().copied().fold(0.0, f64::max);
        met &= middle < LIMIT;
        let verdict = if middle < LIMIT { "pass" } else { "MISSED" };
        println!(
            "{what:<24} median {middle:>5.0} ms, longest {most:>5.0} ms of {}   < {LIMIT} ms   {verdict}",
            times.len()
        );
    }
    println!(
        "of opening, the page's main thread had a processor for {:.0} ms (median)",
        median(&busy)
    );
    println!(
        "{DESTINATIONS} destinations, {PROCESSES} processes, {tiles} services drawn, {loops} loops, {cards} findings, a page of {:.1} MB",
        size as f64 / 1e6
    );
    let document = json!({
        "schema_version": 1,
        "date": machine::now(),
        "machine": machine::description(),
        "blackstart": machine::revision(),
        "browser": browser.version(),
        "page_bytes": size,
        "destinations": DESTINATIONS,
        "processes": PROCESSES,
        "tiles": tiles,
        "loops": loops,
        "cards": cards,
        "limit_ms": LIMIT,
        "opens_ms": openings,
        "opens_main_thread_ms": busy,
        "filters_ms": filters,
    });
    let date: String = machine::now().chars().take(10).collect();
    let file = Path::new(&directory).join(format!("{date}-html.json"));
    std::fs::write(&file, format!("{document}\n")).expect("write the results");
    println!("written to {}", file.display());
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The page of a live run.
fn large_page(world: &World) -> std::path::PathBuf {
    let server = world.node("server");
    let name = |number: usize| format!("n{number:04}.bench.example");
    let zone = (0..DESTINATIONS).fold(Zone::new(), |zone, at| zone.host(&name(at), &server));
    world.dns(zone);
    let reach = format!(
        "import socket\n\
         for n in range({DESTINATIONS}):\n\
         \u{20}   to = socket.getaddrinfo('n%04d.bench.example' % n, 9, socket.AF_INET, socket.SOCK_DGRAM)[0][4]\n\
         \u{20}   socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', to)\n"
    );
    let reach = world.file("reach.py", &reach);
    let script = format!(
        "python3 {}; n=0; while [ $n -lt {PROCESSES} ]; do /bin/true $n; n=$((n + 1)); done",
        reach.display()
    );
    let page = world.dir().join("large.html");
    world
        .guard()
        .arg(&format!("--report={}", page.display()))
        .arg(&format!("--catalog={}", catalog(world, name).display()))
        .arg("--service=mysql")
        .run(&["sh", "-c", &script])
        .exits(0);
    page
}

/// A catalog in which as many deployments' contacts as are drawn close circles: over nothing, or over one another.
fn catalog(world: &World, name: impl Fn(usize) -> String) -> std::path::PathBuf {
    let head = "---\napiVersion: blackstart.dev/v1\nkind: Service\n";
    let services = (0..SERVICES).map(|at| {
        let needed = match at % 5 {
            0 => "mysql".to_owned(),
            _ => format!("s{:02}", at - 1),
        };
        format!(
            "{head}name: s{at:02}\nprovides: [{}]\nneeds: [{needed}]\n",
            name(at)
        )
    });
    let text = format!(
        "{head}name: mysql\nowner: team-db\n{}",
        services.collect::<String>()
    );
    world.file("catalog.yaml", &text)
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number of milliseconds")
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
