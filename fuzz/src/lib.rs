//! What must hold of any text that is given to a reader. The fuzzers give ever new ones, and a test of `blackstart-core`
//! those that a fuzzer has kept (`fuzz/corpus`).

use blackstart_core::agent;
use blackstart_core::catalog;
use blackstart_core::graph::findings::findings;
use blackstart_core::graph::loops::loops;
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, Input, Observed, build, own_scripts};
use blackstart_core::import::{self, Format};
use blackstart_core::lock::{Lock, Places};
use blackstart_core::policy::{self, Diagnostic, Severity};
use blackstart_core::record::Row;
use blackstart_core::redact::Redaction;
use blackstart_core::report::{
    Account, Guarded, Ledger, LimitFacts, Mode, Report, RunFacts, Usage,
};
use blackstart_core::tables::{Facts, compile};

/// A policy is read, or told what is wrong with it at its place; what is read can be made into tables.
pub fn policy(text: &str) {
    let (_, diagnostics) = policy::read(text, "p.yaml");
    stand(&diagnostics, text);
    assert_eq!(
        policy::parse(text, "p.yaml").is_err(),
        has_error(&diagnostics)
    );
    match policy::alone(text, "p.yaml") {
        Ok(effective) => {
            stand(&effective.warnings, text);
            // It may be too much for the tables; that is told.
            let _ = compile(&effective.policy, &Facts::default());
        }
        Err(diagnostics) => {
            stand(&diagnostics, text);
            assert!(has_error(&diagnostics));
        }
    }
}

/// A catalog likewise; whatever it says, a graph can be made of it.
pub fn catalog(text: &str) {
    let reading = catalog::read(&[("c.yaml", text)]);
    stand(&reading.diagnostics, text);
    assert_eq!(reading.partial, has_error(&reading.diagnostics));
    draw(&build(&Input {
        catalog: &reading.catalog,
        runs: &[],
        imports: &[],
    }));
}

/// What is imported is a catalog, whatever was read.
pub fn import(text: &str) {
    for format in [
        Format::Backstage,
        Format::Jaeger,
        Format::Otlp,
        Format::Kubernetes,
    ] {
        let reading = import::read(format, &[("f", text)], &import::Options::default());
        stand(&reading.diagnostics, text);
        assert_eq!(reading.partial, has_error(&reading.diagnostics));
        let written = reading.import.text();
        assert!(import::Import::wrote(&written));
        let read = catalog::read(&[("import.json", &written)]);
        assert!(!read.partial, "{format}: {:?}\n{written}", read.diagnostics);
    }
}

/// A report that can be read is written as it was read, and can be looked into.
pub fn report(text: &str) {
    let Ok(report) = serde_json::from_str::<Report>(text) else {
        return;
    };
    let written = serde_json::to_string(&report).expect("a report can be written");
    let again: Report = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(
        serde_json::to_string(&again).expect("a report can be written"),
        written
    );
    own_scripts(&report, Some("/srv"));
    let catalog = catalog::read(&[]).catalog;
    for phase in [catalog::Phase::Deploy, catalog::Phase::Run] {
        draw(&build(&Input {
            catalog: &catalog,
            runs: &[Observed {
                report: &report,
                phase,
            }],
            imports: &[],
        }));
    }
    let places = Places {
        started_in: Some("/srv"),
        beside: Some("/srv"),
    };
    let lock = Lock::of(&report, places, &mut |_| None);
    assert_eq!(Lock::parse(&lock.text()).as_ref(), Ok(&lock));
}

/// A lockfile that can be read is written as it was read.
pub fn lock(text: &str) {
    if let Ok(lock) = Lock::parse(text) {
        assert_eq!(Lock::parse(&lock.text()), Ok(lock));
    }
}

/// What a caller says to the agent, as a packet and as an order: it is refused, or means what it would mean if it were said again.
pub fn request(text: &str) {
    let said = agent::read_packet(text.as_bytes());
    if let Some(packet) = said.ok().and_then(|word| agent::packet(&word)) {
        let again = agent::read_packet(&packet).expect("what was written can be read");
        assert_eq!(agent::packet(&again).as_ref(), Some(&packet));
    }
    let order = agent::read_order(text.as_bytes());
    if let Some(file) = order.ok().and_then(|order| agent::order(&order)) {
        let again = agent::read_order(&file).expect("what was written can be read");
        assert_eq!(agent::order(&again).as_ref(), Some(&file));
    }
}

/// Rows of a record, one a line, as a run that lost its supervisor has left them: whatever they say, a report can be made
/// of them.
pub fn record(text: &str) {
    let mut ledger = Ledger::redacting(&Redaction::default());
    for line in text.lines() {
        match serde_json::from_str::<Row>(line) {
            Ok(row) => ledger.add(row),
            Err(_) => return,
        }
    }
    let account = Account::new(ledger, &facts());
    let written = serde_json::to_string(&account).expect("a report can be written");
    let report: Report = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(
        report.coverage.attempts,
        report.coverage.recorded + report.coverage.lost
    );
}

fn draw(graph: &Graph) {
    let recovery = Recovery::of(graph);
    let found = loops(graph, &recovery, &[]);
    findings(graph, &recovery, &found);
}

fn has_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|told| told.severity == Severity::Error)
}

/// What is told stands where it is told to stand.
fn stand(diagnostics: &[Diagnostic], text: &str) {
    for told in diagnostics {
        assert!(text.get(told.span.clone()).is_some(), "{told:?}");
        assert!(
            !told.message.is_empty() && !told.message.contains('\n'),
            "{told:?}"
        );
    }
}

fn facts() -> RunFacts<'static> {
    RunFacts {
        id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
        service: None,
        owner: None,
        command: vec!["./deploy.sh".into()],
        redaction: Redaction::default(),
        host: "db1".into(),
        mode: Mode::Observe,
        policy_source: None,
        policy: None,
        started_ns: 1_767_225_600_000_000_000,
        ended_ns: None,
        exit_code: None,
        reloads: Vec::new(),
        break_glass: None,
        drill: None,
        limits: LimitFacts::default(),
        usage: Usage::default(),
        kernel_release: "6.1.0".into(),
        features: Vec::new(),
        guarded: Guarded::Yes,
        closed_families: false,
        contained: false,
        attached: None,
        followed: Vec::new(),
        unfollowed: Vec::new(),
        gaps: Vec::new(),
        leftovers: Vec::new(),
        unsupervised_seconds: 0.0,
        kept: false,
        known_addresses: Vec::new(),
        own_addresses: Vec::new(),
        resolvers: Vec::new(),
        search: Vec::new(),
    }
}
