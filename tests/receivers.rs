//! What others are told, held against those who read it: the real programs, and the protocol's own reader where its program
//! cannot be had.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_lab::{Guarded, Running, World, Zone};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use serde_json::{Value, json};

const CATALOG: &str = "\
apiVersion: blackstart.dev/v1
kind: Service
name: mysql
owner: team-db
provides: [mysql.internal]
---
apiVersion: blackstart.dev/v1
kind: Service
name: billing
owner: team-billing
provides: [billing.internal]
";

const POLICY: &str = "\
mode: enforce
service: mysql
rules:
  - deny: .github.com
    reason: \"it is served by this database:\\n\\\"every\\\" page\"
    fix: use the mirror
  - deny: service:billing
    reason: it bills
    fix: ask <!channel> & wait
";

/// A deployment that reaches for two services which it may not need.
struct Scene {
    world: World,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let (github, billing) = (world.node("github"), world.node("billing"));
        github.http();
        billing.http();
        world.dns(
            Zone::new()
                .host("api.github.com", &github)
                .host("billing.internal", &billing),
        );
        world.file("catalog.yaml", CATALOG);
        Self { world }
    }

    fn deploy(&self, targets: &[String]) -> Guarded {
        let catalog = self.world.dir().join("catalog.yaml");
        let guard = self
            .world
            .guard()
            .policy(POLICY)
            .arg(&format!("--catalog={}", catalog.display()));
        let guard = targets.iter().fold(guard, |guard, target| {
            guard.arg(&format!("--notify={target}"))
        });
        let run = guard
            .run(&[
                "sh",
                "-c",
                "curl -sS http://billing.internal/; curl -sS http://api.github.com/",
            ])
            .exits(6);
        assert_eq!(run.findings("denied_dependency").len(), 2);
        run
    }

    /// Nothing waits any more.
    #[track_caller]
    fn all_is_sent(&self) {
        let spool = self.world.guard().state().join("notify/spool");
        soon("everything is sent", || {
            let waits = fs::read_dir(&spool).unwrap().flatten().any(|file| {
                file.path()
                    .extension()
                    .is_some_and(|ending| ending == "json")
            });
            (!waits).then_some(())
        });
    }

    /// What a server answers.
    fn get(&self, url: &str) -> Value {
        let answer = self.world.run(&["curl", "-sS", "-m", "20", url]).succeeds();
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }
}

/// Wait until a server that listens says that it is ready.
#[track_caller]
fn is_ready(scene: &Scene, url: &str) {
    let ready = format!("{url}/-/ready");
    soon("it is ready", || {
        let asked = scene.world.run(&["curl", "-sf", "-m", "20", &ready]);
        (asked.code == 0).then_some(())
    });
}

/// Are these programs there? If not, the test says so.
fn are_there(test: &str, programs: &[&str]) -> bool {
    let is_there = |program: &&&str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
            || Path::new(**program).exists()
    };
    let missing: Vec<_> = programs.iter().filter(|it| !is_there(it)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {test}, without {missing:?} (scripts/install-deps test)");
    }
    missing.is_empty()
}

/// What comes out of it, once something does.
#[track_caller]
fn soon<T>(what: &str, mut act: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = act() {
            return found;
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(60), "{what}: not in {took:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn alertmanager_takes_alerts_and_calls_their_owners() {
    if !are_there("alertmanager", &["prometheus-alertmanager", "amtool"]) {
        return;
    }
    let scene = Scene::new("alertmanager");
    let (node, pagers) = (scene.world.node("alerts"), scene.world.node("pagers"));
    let pager = pagers.sink(8001, &[200]);
    let routes: String = ["team-db", "team-billing"]
        .map(|owner| format!("    - {{ matchers: ['owner=\"{owner}\"'], receiver: {owner} }}\n"))
        .concat();
    let receivers: String = ["team-db", "team-billing"]
        .map(|owner| {
            format!(
                "  - {{ name: {owner}, webhook_configs: [{{ url: 'http://{}:8001/{owner}' }}] }}\n",
                pagers.v4()
            )
        })
        .concat();
    let config = scene.world.file(
        "alertmanager.yml",
        &format!(
            "route:\n  receiver: nobody\n  group_by: [owner]\n  group_wait: 0s\n  group_interval: 1s\n  routes:\n{routes}\
             receivers:\n  - name: nobody\n{receivers}"
        ),
    );
    let config = config.display();
    scene
        .world
        .run(&["amtool", "check-config", &config.to_string()])
        .succeeds();
    node.serve(
        9093,
        &[
            "prometheus-alertmanager".to_owned(),
            format!("--config.file={config}"),
            "--storage.path=alertmanager".to_owned(),
            "--cluster.listen-address=".to_owned(),
            "--web.listen-address=:9093".to_owned(),
        ],
    );
    let url = format!("http://{}:9093", node.v4());
    is_ready(&scene, &url);
    let targets = [format!("alertmanager:{url}")];
    let run = scene.deploy(&targets);
    scene.all_is_sent();

    let alerts = scene.get(&format!("{url}/api/v2/alerts"));
    // Whose service it is that a rule names, or else that is deployed: the catalog has both.
    for (owner, named, title) in [
        ("team-db", None, "api.github.com"),
        ("team-billing", Some("team-billing"), "billing.internal"),
    ] {
        assert_eq!(run.report().run.owner.as_deref(), Some("team-db"));
        let finding = run
            .findings("denied_dependency")
            .into_iter()
            .find(|finding| finding.title.contains(title))
            .unwrap();
        assert_eq!(finding.owner.as_deref(), named);
        let alert = alerts
            .as_array()
            .unwrap()
            .iter()
            .find(|alert| alert["labels"]["finding"] == *finding.id)
            .unwrap_or_else(|| panic!("no alert of {title}: {alerts:#}"));
        assert_eq!(alert["labels"]["owner"], owner);
        assert_eq!(alert["labels"]["service"], "mysql");
        assert_eq!(alert["labels"]["kind"], "denied_dependency");
        assert_eq!(alert["annotations"]["summary"], finding.title);
        assert_eq!(alert["annotations"]["run"], run.report().run.id);
        assert_eq!(alert["status"]["state"], "active");
        assert_eq!(alert["receivers"], json!([{"name": owner}]));
        // As an operator would look.
        let told = scene
            .world
            .run(&[
                "amtool",
                &format!("--alertmanager.url={url}"),
                "alert",
                "query",
                &format!("finding={}", finding.id),
            ])
            .succeeds();
        told.says("BlackstartFinding").says(title);
    }
    // Each owner is called, for what is theirs.
    let of_pager = || -> BTreeMap<String, BTreeSet<String>> {
        let mut told = BTreeMap::<_, BTreeSet<String>>::new();
        for body in pager.taken() {
            let body: Value = serde_json::from_str(&body).unwrap();
            let owner = body["receiver"].as_str().unwrap().to_owned();
            for alert in body["alerts"].as_array().unwrap() {
                assert_eq!(alert["labels"]["owner"], owner);
                let summary = alert["annotations"]["summary"].as_str().unwrap();
                told.entry(owner.clone())
                    .or_default()
                    .insert(summary.to_owned());
            }
        }
        told
    };
    let told = soon("both owners are called", || {
        let told = of_pager();
        (told.len() == 2).then_some(told)
    });
    assert!(told["team-db"].iter().any(|it| it.contains("github")));
    assert!(told["team-billing"].iter().all(|it| !it.contains("github")));

    // The same again changes nothing there, and nobody is called.
    let calls = pager.taken().len();
    scene.deploy(&targets);
    scene.all_is_sent();
    let again = scene.get(&format!("{url}/api/v2/alerts"));
    assert_eq!(again, alerts);
    assert_eq!(pager.taken().len(), calls);
}

#[test]
fn prometheus_answers_what_runs_came_to() {
    if !are_there(
        "prometheus",
        &["prometheus", "promtool", "prometheus-node-exporter"],
    ) {
        return;
    }
    let scene = Scene::new("prometheus");
    let node = scene.world.node("metrics");
    let collected = scene.world.dir().join("collected");
    fs::create_dir(&collected).unwrap();
    let targets = [format!("metrics:{}", collected.join("b.prom").display())];
    scene.deploy(&targets);
    // A name that has to be escaped.
    let odd = "odd \"name\" \\ ü";
    scene
        .world
        .guard()
        .arg(&format!("--service={odd}"))
        .arg(&format!("--notify={}", targets[0]))
        .run(&["true"])
        .exits(0);
    let file = collected.join("b.prom");
    let checked = scene
        .world
        .run(&[
            "sh",
            "-c",
            &format!("promtool check metrics <{}", file.display()),
        ])
        .succeeds();
    assert_eq!(checked.stdout, "", "{checked:?}");

    // As it is collected on a host: from the node exporter.
    scene.world.host().serve(
        9100,
        &[
            "prometheus-node-exporter".to_owned(),
            "--web.listen-address=:9100".to_owned(),
            "--collector.disable-defaults".to_owned(),
            "--collector.textfile".to_owned(),
            format!("--collector.textfile.directory={}", collected.display()),
        ],
    );
    let config = scene.world.file(
        "prometheus.yml",
        &format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\n\
             scrape_configs:\n  - job_name: node\n    static_configs: [{{ targets: ['{}:9100'] }}]\n",
            scene.world.host().v4()
        ),
    );
    node.serve(
        9090,
        &[
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            "--storage.tsdb.path=tsdb".to_owned(),
            "--web.listen-address=:9090".to_owned(),
        ],
    );
    let url = format!("http://{}:9090", node.v4());
    is_ready(&scene, &url);
    // The value of the one series that there is.
    let value = |query: &str| -> Option<String> {
        let answer = scene
            .world
            .run(&[
                "curl",
                "-sSG",
                &format!("{url}/api/v1/query"),
                "--data-urlencode",
                &format!("query={query}"),
            ])
            .succeeds();
        let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer:#}");
        let found = answer["data"]["result"].as_array().unwrap();
        assert!(found.len() <= 1, "{query}: {answer:#}");
        Some(found.first()?["value"][1].as_str().unwrap().to_owned())
    };
    let failed = "blackstart_runs_total{service=\"mysql\",outcome=\"failed\"}";
    soon("it is scraped", || value(failed).filter(|it| it == "1"));
    for (query, wanted) in [
        ("node_textfile_scrape_error", "0"),
        (
            "blackstart_findings_total{kind=\"denied_dependency\",service=\"mysql\"}",
            "2",
        ),
        ("blackstart_last_run_exit_code{service=\"mysql\"}", "6"),
        ("blackstart_last_run_coverage_ratio{service=\"mysql\"}", "1"),
        (
            "time() - blackstart_last_run_timestamp_seconds{service=\"mysql\"} < bool 3600",
            "1",
        ),
        (
            "blackstart_runs_total{service=\"odd \\\"name\\\" \\\\ ü\",outcome=\"succeeded\"}",
            "1",
        ),
    ] {
        assert_eq!(value(query).as_deref(), Some(wanted), "{query}");
    }
    assert_ne!(
        value("sum(blackstart_denied_attempts_total{verdict=\"refused\"})").as_deref(),
        Some("0")
    );
    // One more is one more.
    scene.deploy(&targets);
    soon("it is scraped again", || {
        value(failed).filter(|it| it == "2")
    });
}

/// A journald that writes into `DIR/log` and is asked at `DIR/run/socket`.
const JOURNALD: &str = "mount -t tmpfs tmpfs /run\n\
    mkdir -p /run/systemd/journal /run/log/journal\n\
    mount --bind DIR/run /run/systemd/journal\n\
    mount --bind DIR/log /run/log/journal\n\
    mount --bind DIR/id /etc/machine-id\n\
    mount --bind DIR/conf /etc/systemd/journald.conf\n\
    mount --bind /dev/null /dev/kmsg\n\
    for journald in /usr/lib/systemd/systemd-journald /lib/systemd/systemd-journald; do\n\
      [ ! -x $journald ] || exec $journald\n\
    done\n";

fn journald(world: &World) -> (Running, PathBuf) {
    let dir = world.dir().join("journal");
    for (name, text) in [
        ("run/.made", ""),
        ("log/.made", ""),
        ("id", "0123456789abcdef0123456789abcdef\n"),
        (
            "conf",
            "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n",
        ),
    ] {
        world.file(&format!("journal/{name}"), text);
    }
    let script = JOURNALD.replace("DIR", &dir.display().to_string());
    let mut running = world.host().start(&[
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-ec",
        &script,
    ]);
    soon("the journal has its socket", || {
        if let Some(ended) = running.try_wait() {
            panic!("journald ended: {ended:?}");
        }
        dir.join("run/socket").exists().then_some(())
    });
    (running, dir)
}

#[test]
fn the_journal_has_each_field_of_each_entry() {
    if !are_there("journald", &["journalctl", "/lib/systemd/systemd-journald"]) {
        return;
    }
    let scene = Scene::new("journald");
    let (_journald, dir) = journald(&scene.world);
    let run = scene.deploy(&[format!("journald:{}", dir.join("run/socket").display())]);
    let lines = run.report().findings.len() + 1;
    let id = &run.report().run.id;
    let entries: Vec<Value> = soon("the journal has them", || {
        let told = scene
            .world
            .run(&[
                "journalctl",
                &format!("--directory={}", dir.join("log").display()),
                "--output=json",
                "--no-pager",
                &format!("BLACKSTART_RUN={id}"),
            ])
            .succeeds();
        let entries: Vec<Value> = told
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (entries.len() == lines).then_some(entries)
    });
    for finding in &run.report().findings {
        let entry = entries
            .iter()
            .find(|entry| entry["BLACKSTART_FINDING"] == *finding.id)
            .unwrap_or_else(|| panic!("no entry of {}: {entries:#?}", finding.id));
        assert_eq!(entry["MESSAGE"], finding.title);
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "blackstart");
        assert_eq!(entry["BLACKSTART_SERVICE"], "mysql");
        assert_eq!(entry["BLACKSTART_KIND"], finding.kind);
        assert_eq!(entry["BLACKSTART_NEW"], "yes");
        for (field, value) in [
            (
                "BLACKSTART_OWNER",
                finding.owner.as_ref().or(run.report().run.owner.as_ref()),
            ),
            ("BLACKSTART_RULE", finding.rule.as_ref()),
            // It has two lines.
            ("BLACKSTART_REASON", finding.reason.as_ref()),
            ("BLACKSTART_FIX", finding.fix.as_ref()),
        ] {
            if let Some(value) = value {
                assert_eq!(entry[field], *value, "{field}");
            }
        }
    }
    let of_run = entries
        .iter()
        .find(|entry| entry["BLACKSTART_EXIT_CODE"] == "6")
        .unwrap();
    assert_eq!(of_run["PRIORITY"], "3", "{of_run:#}");
    assert_eq!(
        of_run["BLACKSTART_FINDINGS"],
        run.report().findings.len().to_string()
    );
    // It is whole.
    scene
        .world
        .run(&[
            "journalctl",
            "--verify",
            &format!("--directory={}", dir.join("log").display()),
        ])
        .succeeds();
}

/// Everything that stands in `sent` stands in `read`: nothing was skipped as unknown, or read as something else.
#[track_caller]
fn is_read(at: &str, sent: &Value, read: &Value) {
    match (sent, read) {
        (Value::Object(sent), Value::Object(read)) => {
            for (key, value) in sent {
                let at = format!("{at}.{key}");
                // What a reader leaves out where it says nothing.
                let nothing = json!(null);
                is_read(&at, value, read.get(key).unwrap_or(&nothing));
            }
        }
        (Value::Array(sent), Value::Array(read)) => {
            assert_eq!(sent.len(), read.len(), "{at}");
            for (number, (sent, read)) in sent.iter().zip(read).enumerate() {
                is_read(&format!("{at}[{number}]"), sent, read);
            }
        }
        (Value::Array(sent), Value::Null) if sent.is_empty() => {}
        (Value::Number(sent), Value::Null) if sent.as_u64() == Some(0) => {}
        _ => assert_eq!(sent, read, "{at}"),
    }
}

fn attribute<'a>(of: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    let found = of.iter().find(|it| it.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

#[track_caller]
fn is_text(found: Option<&any_value::Value>, wanted: &str) {
    let wanted = any_value::Value::StringValue(wanted.to_owned());
    assert_eq!(found, Some(&wanted));
}

#[test]
fn what_a_collector_gets_is_read_by_the_protocols_own_types() {
    let scene = Scene::new("otlp");
    let node = scene.world.node("collector");
    let collector = node.sink(4318, &[200]);
    let run = scene.deploy(&[format!("otlp:http://{}:4318", node.v4())]);
    let taken = collector.take(2);
    let body = |path: &str| -> &String {
        let at = collector.seen().iter().position(|it| it.ends_with(path));
        &taken[at.unwrap_or_else(|| panic!("nothing came to {path}"))]
    };
    let text = body("/v1/traces");
    let traces: ExportTraceServiceRequest = serde_json::from_str(text).unwrap();
    is_read(
        "traces",
        &serde_json::from_str(text).unwrap(),
        &serde_json::to_value(&traces).unwrap(),
    );
    let [resource] = &traces.resource_spans[..] else {
        panic!("{traces:#?}")
    };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    is_text(attribute(attributes, "service.name"), "blackstart");
    is_text(attribute(attributes, "host.name"), &run.report().run.host);
    let spans = &resource.scope_spans[0].spans;
    assert_eq!(spans.len(), run.report().subjects.len() + 1);
    let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), spans.len());
    for span in spans {
        assert_eq!(span.trace_id.len(), 16);
        assert_eq!(span.trace_id, spans[0].trace_id);
        assert_eq!(span.span_id.len(), 8);
        assert!(span.span_id.iter().any(|byte| *byte != 0));
        assert!(span.start_time_unix_nano > 1_700_000_000_000_000_000);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        let is_root = span.parent_span_id.is_empty();
        assert!(is_root || ids.contains(&span.parent_span_id));
        assert_eq!(is_root, span.name == "run mysql", "{span:#?}");
    }
    // Whose refusals are events of it.
    let curl = spans
        .iter()
        .find(|span| {
            let words = attribute(&span.attributes, "process.command_args");
            let wanted = AnyValue {
                value: Some(any_value::Value::StringValue(
                    "http://api.github.com/".to_owned(),
                )),
            };
            matches!(words, Some(any_value::Value::ArrayValue(words)) if words.values.contains(&wanted))
        })
        .unwrap();
    let refused = curl.events.iter().find(|event| event.name == "refused");
    is_text(
        attribute(&refused.unwrap().attributes, "blackstart.destination"),
        "api.github.com",
    );
    assert_eq!(curl.status.as_ref().unwrap().code, 2);

    let text = body("/v1/logs");
    let logs: ExportLogsServiceRequest = serde_json::from_str(text).unwrap();
    is_read(
        "logs",
        &serde_json::from_str(text).unwrap(),
        &serde_json::to_value(&logs).unwrap(),
    );
    let records = &logs.resource_logs[0].scope_logs[0].log_records;
    assert_eq!(records.len(), run.report().findings.len());
    for (record, finding) in records.iter().zip(&run.report().findings) {
        is_text(record.body.as_ref().unwrap().value.as_ref(), &finding.title);
        is_text(
            attribute(&record.attributes, "blackstart.finding"),
            &finding.id,
        );
        assert_eq!(record.trace_id, spans[0].trace_id);
        assert_eq!(record.span_id, spans[0].span_id);
        assert!(record.severity_number > 0 && record.time_unix_nano > 0);
    }
}
