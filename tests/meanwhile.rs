//! What lasts is told of, and learned from, while it goes on.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_lab::{Agent, Guarding, Running, World};
use rustix::process::Signal;
use serde_json::Value;

const DENY_GITHUB: &str = "mode: enforce\nservice: mysql\nrules:\n  - deny: github.com\n    reason: served by this database\n";

/// Fetches from each host that is named in a file, whenever that changes.
const LOOP: &str = "echo ready; last=; until [ -e stop ]; do now=$(cat todo 2>/dev/null); \
    if [ \"$now\" != \"$last\" ]; then last=$now; for host in $now; do curl -sS -m 10 http://$host/; done; echo \"did $now.\"; fi; \
    sleep 0.05; done";

/// A service that somebody runs, and a world around it.
struct Scene {
    world: World,
    cgroup: PathBuf,
    service: Running,
}

impl Scene {
    fn new(name: &str) -> Self {
        let (world, _, _) = World::with_names(name);
        let cgroup = world.cgroup("service");
        let mut service = world.start_in(&cgroup, &["sh", "-c", LOOP]);
        service.wait_for("ready");
        Self {
            world,
            cgroup,
            service,
        }
    }

    fn attach(&self, targets: &[String]) -> Guarding {
        let guard = self
            .world
            .guard()
            .policy(DENY_GITHUB)
            .arg("--notify-every=1s");
        let guard = targets.iter().fold(guard, |guard, target| {
            guard.arg(&format!("--notify={target}"))
        });
        guard.attach(&["--cgroup", &self.cgroup.display().to_string()])
    }

    fn fetches(&mut self, hosts: &str) {
        self.world.file("next", hosts);
        fs::rename(self.world.dir().join("next"), self.world.dir().join("todo")).unwrap();
        self.service.wait_for(&format!("did {hosts}."));
    }

    fn runs(&self) -> Vec<Value> {
        let listed = self
            .world
            .guard()
            .blackstart(&["runs", "list", "--format", "json"])
            .exits(0);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        listed["runs"].as_array().unwrap().clone()
    }

    fn end(self) {
        self.world.file("stop", "");
        self.service.wait();
    }
}

#[track_caller]
fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "{what}: not in time"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_guard_that_goes_on_tells_what_it_finds_once_and_is_in_the_history() {
    let mut scene = Scene::new("meanwhile");
    let sink = scene.world.node("sink");
    let web = sink.sink(8001, &[200]);
    let log = scene.world.dir().join("runs.jsonl");
    let prom = scene.world.dir().join("b.prom");
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.map(Result::unwrap).collect()
    };
    let mut guarding = scene.attach(&[
        format!("webhook:http://{}:8001/", sink.v4()),
        format!("file:{}", log.display()),
        format!("metrics:{}", prom.display()),
    ]);
    scene.fetches("github.com mirror.internal");
    // Nobody has ended it.
    let told: Value = serde_json::from_str(&web.take(1)[0]).unwrap();
    assert_eq!(told["run"]["service"], "mysql");
    assert_eq!(told["run"]["ended"], Value::Null);
    assert!(told["run"]["so_far"].is_string(), "{told:#}");
    let kinds = |told: &Value| -> Vec<String> {
        let findings = told["findings"].as_array().unwrap().iter();
        findings
            .map(|it| it["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds(&told), ["denied_dependency"], "{told:#}");
    soon("the finding is in the log", || !lines().is_empty());
    let first = lines();
    assert!(
        first.iter().all(|line| line["type"] == "finding"),
        "{first:?}"
    );
    assert!(!prom.exists());

    // It is in the history, and that says what it is.
    soon("the history has it", || !scene.runs().is_empty());
    let run = &scene.runs()[0];
    assert_eq!(
        (&run["ended"], &run["exit_code"]),
        (&Value::Null, &Value::Null)
    );
    let listed = scene.world.guard().blackstart(&["runs", "list"]).exits(0);
    // Of a path as much as there is room for.
    assert!(listed.stdout.contains("  attached to /"), "{listed:?}");
    assert!(listed.stdout.contains(", goes on"), "{listed:?}");
    let cgroup = scene.cgroup.display().to_string();
    assert_eq!(run["attached"], *cgroup);
    let learned =
        scene
            .world
            .guard()
            .blackstart(&["policy", "learn", "--service", "mysql", "--attached"]);
    let learned = learned.exits(0);
    assert!(learned.stdout.contains("mirror.internal"), "{learned:?}");
    assert!(
        learned.stdout.contains("it went on when it was taken in"),
        "{learned:?}"
    );
    // The same again, and something else: only that is news.
    scene.fetches("github.com");
    guarding.running().signal(Signal::TERM);
    let run = guarding.wait().exits(0);
    let id = run.report().run.id.clone();
    let last = lines();
    let of_run: Vec<_> = last.iter().filter(|line| line["type"] == "run").collect();
    assert_eq!(of_run.len(), 1);
    assert!(of_run[0]["run"]["ended"].is_string());
    let news = last.iter().filter(|line| line["finding"]["new"] == true);
    assert_eq!(news.count(), first.len());
    assert_eq!(web.taken().len(), 1);
    let metrics = fs::read_to_string(&prom).unwrap();
    assert!(
        metrics.contains("outcome=\"succeeded\",service=\"mysql\"} 1\n"),
        "{metrics}"
    );
    let runs = scene.runs();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0]["id"], *id);
    assert!(runs[0]["ended"].is_string());
    let shown = scene
        .world
        .guard()
        .blackstart(&["runs", "show", &id, "--format", "json"])
        .exits(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert!(shown["run"]["ended"].is_string());
    scene.end();
}

#[test]
fn an_agent_tells_of_what_it_guards_while_that_goes_on() {
    let (world, _, _) = World::with_names("meanwhile-agent");
    let log = world.dir().join("runs.jsonl");
    world.file("targets", &format!("file:{}\n", log.display()));
    let agent = Agent::start(&world, &["--notify-every=1s"]);
    let mut run = agent.guard().policy(DENY_GITHUB).start(&["sh", "-c", LOOP]);
    run.running().wait_for("ready");
    let fetches = |run: &mut Guarding, hosts: &str| {
        world.file("next", hosts);
        fs::rename(world.dir().join("next"), world.dir().join("todo")).unwrap();
        run.running().wait_for(&format!("did {hosts}."));
    };
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.map(Result::unwrap).collect()
    };
    let listed = || -> Value {
        let listed = world
            .guard()
            .blackstart(&["runs", "list", "--format", "json"]);
        serde_json::from_str(&listed.exits(0).stdout).unwrap()
    };
    fetches(&mut run, "github.com mirror.internal");
    soon("the finding is in the log", || !lines().is_empty());
    let first = lines();
    let kinds = |lines: &[Value]| -> Vec<(Value, Value)> {
        let parts = lines
            .iter()
            .map(|line| (&line["type"], &line["finding"]["kind"]));
        parts.map(|(kind, of)| (kind.clone(), of.clone())).collect()
    };
    let denied = (Value::from("finding"), Value::from("denied_dependency"));
    assert_eq!(kinds(&first), [denied], "{first:?}");
    soon("the history has it", || {
        listed()["runs"]
            .as_array()
            .is_some_and(|runs| !runs.is_empty())
    });
    assert_eq!(listed()["runs"][0]["ended"], Value::Null);
    fetches(&mut run, "github.com");
    world.file("stop", "");
    let id = run.wait().exits(0).report().run.id.clone();
    soon("its end is told", || {
        lines().iter().any(|line| line["type"] == "run")
    });
    let last = lines();
    let news = last.iter().filter(|line| line["finding"]["new"] == true);
    assert_eq!(news.count(), 1, "{last:?}");
    soon("the history has its end", || {
        listed()["runs"][0]["ended"].is_string()
    });
    let listed = listed();
    assert_eq!(listed["total"], 1);
    assert_eq!(listed["runs"][0]["id"], *id);
}

#[test]
fn a_run_that_is_killed_after_it_was_told_of_is_in_the_history_once() {
    let mut scene = Scene::new("meanwhile-killed");
    let mut guarding = scene.attach(&[]);
    scene.fetches("mirror.internal");
    soon("the history has it", || !scene.runs().is_empty());
    guarding.running().signal(Signal::KILL);
    guarding.wait();
    let runs = scene.runs();
    assert_eq!(runs.len(), 1);
    assert!(runs[0]["ended"].is_string(), "{runs:?}");
    scene.end();
}
