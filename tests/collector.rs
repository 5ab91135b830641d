//! A real collector of OpenTelemetry (rotel): it takes what it is told of a run, reads it, and hands it on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_lab::{World, workspace};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

const DENY_GITHUB: &str = "mode: enforce\nservice: mysql\nrules:\n  - deny: github.com\n    reason: served by this database\n    fix: use the mirror\n";

/// As `scripts/install-deps test` installs it; none where there is no build of it.
fn rotel() -> Option<PathBuf> {
    let found = workspace::root().join("target/collector/rotel/rotel-agent");
    if !found.exists() {
        eprintln!(
            "skipped: no collector is at {} (scripts/install-deps test)",
            found.display()
        );
    }
    Some(found).filter(|found| found.exists())
}

/// What was handed on to this path, once it was.
#[track_caller]
fn handed_on(dir: &Path, path: &str) -> Vec<u8> {
    let began = Instant::now();
    loop {
        let files = fs::read_dir(dir).unwrap().flatten().map(|file| file.path());
        let found: Vec<PathBuf> = files
            .filter(|file| file.to_string_lossy().ends_with(path))
            .collect();
        if let [file] = &found[..] {
            return fs::read(file).unwrap();
        }
        assert!(found.is_empty(), "once: {found:?}");
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "nothing was handed on to {path}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_real_collector_takes_traces_and_logs_and_hands_all_of_them_on() {
    let Some(rotel) = rotel() else { return };
    let (world, _, _) = World::with_names("collector");
    let (node, behind) = (world.node("collector"), world.node("behind"));
    let kept = world.dir().join("kept");
    fs::create_dir(&kept).unwrap();
    let posts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/posts.py");
    behind.serve(
        8002,
        &[
            "python3".to_owned(),
            posts.display().to_string(),
            "8002".to_owned(),
            kept.display().to_string(),
        ],
    );
    // The same, without anybody between.
    let direct = behind.sink(8001, &[200]);
    let in_world = |name: &str| world.dir().join(name).display().to_string();
    node.serve(
        4318,
        &[
            rotel.display().to_string(),
            "start".to_owned(),
            format!("--pid-file={}", in_world("rotel.pid")),
            format!("--log-file={}", in_world("rotel.log")),
            "--otlp-http-endpoint=0.0.0.0:4318".to_owned(),
            "--otlp-grpc-endpoint=127.0.0.1:4317".to_owned(),
            "--exporter=otlp".to_owned(),
            "--otlp-exporter-protocol=http".to_owned(),
            format!("--otlp-exporter-endpoint=http://{}:8002", behind.v4()),
        ],
    );
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .arg(&format!("--notify=otlp:http://{}:4318", node.v4()))
        .arg(&format!("--notify=otlp:http://{}:8001", behind.v4()))
        .run(&[
            "sh",
            "-c",
            "curl -sS http://mirror.internal/; curl -sS http://github.com/",
        ])
        .exits(6);
    assert_eq!(run.findings("denied_dependency").len(), 1);
    let taken = direct.take(2);
    let sent = |path: &str| -> &String {
        let at = direct.seen().iter().position(|it| it.ends_with(path));
        &taken[at.unwrap_or_else(|| panic!("nothing came to {path}"))]
    };

    let traces = ExportTraceServiceRequest::decode(&handed_on(&kept, "-v1-traces")[..]).unwrap();
    let told: ExportTraceServiceRequest = serde_json::from_str(sent("/v1/traces")).unwrap();
    assert_eq!(traces.resource_spans, told.resource_spans);
    let spans = &traces.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), run.report().subjects.len() + 1);

    let logs = ExportLogsServiceRequest::decode(&handed_on(&kept, "-v1-logs")[..]).unwrap();
    let told: ExportLogsServiceRequest = serde_json::from_str(sent("/v1/logs")).unwrap();
    assert_eq!(logs.resource_logs, told.resource_logs);
    let records = &logs.resource_logs[0].scope_logs[0].log_records;
    assert_eq!(records.len(), run.report().findings.len());

    // It has said that it took them: nothing is sent again.
    let spool = world.guard().state().join("notify/spool");
    let began = Instant::now();
    let waits = || {
        let files = fs::read_dir(&spool).into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .any(|path| path.extension().is_some_and(|ending| ending == "json"))
    };
    while waits() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it was not taken"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
