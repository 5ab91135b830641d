//! A tool that tries what is refused again and again: it is told once, with a count, however often it was, and how it ends is its own.

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::{Guarded, World, case};

const TIMES: u64 = 1500;

/// No matter how often something was tried, a report of one process that tries it is no longer than this.
const LONGEST_REPORT: usize = 20_000;

/// Tries to reach `place` so often in one process; ends with 7 if it never did, and with 0 if it always did.
fn loops(place: &str) -> Vec<String> {
    let script = format!(
        "bad=0; for i in {{1..{TIMES}}}; do {{ : </dev/tcp/{place}/80; }} 2>/dev/null || bad=$((bad + 1)); done
         echo $bad times; [ $bad -eq 0 ] && exit 0; [ $bad -eq {TIMES} ] && exit 7; exit 1"
    );
    ["bash", "-c", &script].map(str::to_owned).into()
}

/// The same with one request after the other, by a real tool.
fn requests(place: &str) -> Vec<String> {
    let url = format!("http://{place}/[1-{TIMES}]");
    ["curl", "-sS", &url].map(str::to_owned).into()
}

/// It is said once while the run is on, found once, and told once at the end, with this count.
#[track_caller]
fn told_once(run: &Guarded, title: &str, attempts: u64) {
    let stderr = &run.ended.stderr;
    // The tool's own words may be cut by ours: it writes them in pieces.
    assert_eq!(stderr.matches(") was refused ").count(), 1, "{run:?}");
    let (_, summary) = stderr.split_once("\nrefused\n").expect("a summary");
    let (refused, _) = summary.split_once("outside dependencies").expect("a table");
    let count = format!("  {attempts} attempts\n");
    assert_eq!(refused.matches(" attempts\n").count(), 1, "{refused}");
    assert!(refused.contains(&count), "{count:?} in {refused}");
    let found = run.findings("denied_dependency");
    let titles: Vec<_> = found.iter().map(|one| one.title.as_str()).collect();
    assert_eq!(titles, [title]);
    assert_eq!(run.report().coverage.lost, 0);
}

/// How often github.com was asked for, all of which was refused: one row for each type of record.
#[track_caller]
fn asked(run: &Guarded) -> u64 {
    let rows = run.lookups("github.com");
    assert!(
        rows.len() == run.report().names.len() && rows.len() <= 2,
        "{rows:#?}"
    );
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    rows.iter().map(|row| row.queries).sum()
}

/// The report is as long as that of one attempt: one process, and one row for each thing that it did.
#[track_caller]
fn is_small(run: &Guarded) {
    let report = run.report();
    assert_eq!((report.subjects.len(), report.flows.len()), (1, 1));
    let length = serde_json::to_vec(report).unwrap().len();
    assert!(length < LONGEST_REPORT, "{length} bytes");
}

#[test]
fn an_address_that_is_tried_for_ever_is_one_row_with_a_count() {
    let shown = case!(67, "an address, by one process");
    let (world, github, _) = World::with_names("loop_address");
    let address = github.v4();
    let place = address.to_string();
    for (tool, command) in [("bash", loops(&place)), ("curl", requests(&place))] {
        shown.outside(&world.run(&command));
        for (policy, rule) in [
            (
                format!("rules:\n  - deny: {address}\n"),
                format!("deny {address}"),
            ),
            (
                "default: deny\nrules: []\n".to_owned(),
                "default".to_owned(),
            ),
        ] {
            let policy = format!("mode: enforce\n{policy}");
            // curl has the same code for it.
            let run = world.guard().policy(&policy).run(&command).exits(7);
            let flow = run.flow(address, 80);
            assert_eq!(
                (flow.verdict, flow.outcome, flow.attempts, &*flow.rule),
                (Verdict::Deny, Outcome::Refused, TIMES, &*rule)
            );
            assert!(run.chain(flow.subject)[0].starts_with(tool));
            let coverage = &run.report().coverage;
            assert_eq!((coverage.attempts, coverage.recorded), (TIMES, TIMES));
            told_once(&run, &format!("{tool} was refused {address}:80"), TIMES);
            is_small(&run);
            shown.refused(&run);
        }
    }
}

#[test]
fn a_name_that_is_looked_up_for_ever_is_one_row_with_a_count() {
    let shown = case!(67, "a name, by one process");
    let (world, github, _) = World::with_names("loop_name");
    let command = loops("github.com");
    shown.outside(&world.run(&command));
    for default in ["", "default: deny\n"] {
        let policy = format!("mode: enforce\n{default}rules:\n  - deny: github.com\n");
        let run = world.guard().policy(&policy).run(&command).exits(7);
        // Each time, libc asks for both families; or, where its question cannot be sent at all, twice for the first.
        assert_eq!(asked(&run), 2 * TIMES);
        assert!(run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty());
        told_once(&run, "bash was refused the lookup of github.com", 2 * TIMES);
        is_small(&run);
        shown.refused(&run);
    }
}

#[test]
fn a_tool_that_is_told_to_retry_ends_as_it_would() {
    let shown = case!(67, "curl that retries");
    let (world, ..) = World::with_names("retry");
    let retry = ["--retry", "2", "--retry-all-errors", "--retry-delay", "1"];
    let command = [&["curl", "-sS"][..], &retry, &["http://github.com/"]].concat();
    shown.outside(&world.run(&command));
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .run(&command)
        .exits(6);
    assert_eq!(asked(&run), 6);
    assert_eq!(
        run.ended.stderr.matches("Could not resolve host").count(),
        3
    );
    told_once(&run, "curl was refused the lookup of github.com", 6);
    is_small(&run);
    shown.refused(&run);
}

/// Each of them is a process of its own, with a row of its own.
#[test]
fn a_loop_that_starts_a_tool_each_time_is_told_once() {
    let shown = case!(67, "a process for each attempt");
    let (world, ..) = World::with_names("loop_of_tools");
    let script = "for i in {1..100}; do curl -s http://github.com/; done; exit $?";
    let command = ["bash", "-c", script];
    shown.outside(&world.run(&command));
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .run(&command)
        .exits(6);
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    let queries = run.lookups("github.com");
    let queries: u64 = queries.iter().map(|row| row.queries).sum();
    assert_eq!(queries, 200);
    assert_eq!(run.report().subjects.len(), 101);
    told_once(&run, "curl was refused the lookup of github.com", 200);
    shown.refused(&run);
}

#[test]
fn a_loop_that_never_ends_is_ended_by_the_time_limit_and_named() {
    let shown = case!(67, "a loop for ever, ended by a time limit");
    let (world, ..) = World::with_names("loop_for_ever");
    let script = "until { : </dev/tcp/github.com/80; } 2>/dev/null; do :; done; echo reached";
    let command = ["bash", "-c", script];
    shown.outside(&world.run(&command).says("reached"));
    for default in ["", "default: deny\n"] {
        let policy = format!(
            "mode: enforce\n{default}limits: {{ time: 2s }}\nrules:\n  - deny: github.com\n"
        );
        let run = world.guard().policy(&policy).run(&command).exits(124);
        let run = run.warns("time limit of 2s reached");
        let attempts = asked(&run);
        assert!(attempts > 20, "again and again: {attempts}");
        told_once(&run, "bash was refused the lookup of github.com", attempts);
        is_small(&run);
        let found = run.findings("limit_time");
        assert!(
            matches!(found[..], [one] if one.title.contains("ended: bash (pid ")),
            "{found:?}"
        );
        shown.refused(&run);
    }
}
