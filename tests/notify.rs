//! Others are told of a run, and no run waits for them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_lab::{Becomes, Guard, Guarded, Held, World, Zone, case};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// A deployment that reaches for what is denied, and whoever is told of it.
struct Scene {
    world: World,
}

const POLICY: &str = "mode: enforce\nservice: mysql\nrules:\n  - deny: .github.com\n    reason: it is served by this database\n    fix: use the mirror\n";

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let github = world.node("github");
        github.http();
        let alerts = world.node("alerts");
        world.dns(
            Zone::new()
                .host("api.github.com", &github)
                .host("alerts.internal", &alerts),
        );
        Self { world }
    }

    /// The machine of that name.
    fn alerts(&self) -> blackstart_lab::Node {
        self.world.node("sink")
    }

    fn guard(&self) -> Guard<'_> {
        self.world.guard().policy(POLICY)
    }

    /// Is refused, and ends with 6 as curl does.
    fn deploy(&self, targets: &[String]) -> Guarded {
        let guard = targets.iter().fold(self.guard(), |guard, target| {
            guard.arg(&format!("--notify={target}"))
        });
        let run = guard
            .run(&["curl", "-sS", "-m", "20", "http://api.github.com/"])
            .exits(6);
        assert_eq!(run.findings("denied_dependency").len(), 1);
        run
    }

    fn spool(&self) -> PathBuf {
        self.world.guard().state().join("notify/spool")
    }

    fn waiting(&self) -> usize {
        let Ok(files) = fs::read_dir(self.spool()) else {
            return 0;
        };
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|it| it == "json"))
            .count()
    }

    /// Nothing waits any more.
    #[track_caller]
    fn all_is_sent(&self) {
        let began = Instant::now();
        while self.waiting() > 0 {
            let took = began.elapsed();
            assert!(took < Duration::from_secs(60), "{} wait", self.waiting());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The one sender that is at work, on something that does not come through at once.
    #[track_caller]
    fn sender(&self) -> Pid {
        let began = Instant::now();
        loop {
            // Right after its start a process has no words that could be seen.
            match self.senders()[..] {
                [sender] => return sender,
                [] => assert!(began.elapsed() < Duration::from_secs(20), "nobody sends"),
                _ => panic!("several send"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processes of senders of this world.
    fn senders(&self) -> Vec<Pid> {
        let state = format!("BLACKSTART_STATE={}", self.world.guard().state().display());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let words = fs::read(entry.path().join("cmdline")).ok()?;
                let environment = fs::read(entry.path().join("environ")).ok()?;
                let is_sender = words.windows(12).any(|it| it == b"--unattended");
                let ours = environment
                    .split(|byte| *byte == 0)
                    .any(|it| it == state.as_bytes());
                (is_sender && ours).then(|| Pid::from_raw(pid))?
            })
            .collect()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_finding_is_told_to_everyone_once() {
    let scene = Scene::new("notify-all");
    let sink = scene.alerts();
    let [webhook, slack, manager, collector] =
        [8001, 8002, 8003, 8004].map(|port| (port, sink.sink(port, &[200])));
    let dir = scene.world.dir().to_owned();
    let url = scene.world.file(
        "webhook.url",
        &format!("http://{}:{}/hidden-path\n", sink.v4(), webhook.0),
    );
    let (log, prom) = (dir.join("runs.jsonl"), dir.join("b.prom"));
    let socket = dir.join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let targets = [
        format!("webhook:@{}", url.display()),
        format!("slack:http://{}:{}/hidden-path", sink.v4(), slack.0),
        format!("alertmanager:http://{}:{}", sink.v4(), manager.0),
        format!("otlp:http://{}:{}", sink.v4(), collector.0),
        format!("file:{}", log.display()),
        format!("metrics:{}", prom.display()),
        format!("journald:{}", socket.display()),
    ];
    let run = scene.deploy(&targets);
    let finding = run.findings("denied_dependency")[0].clone();

    let told = json(&webhook.1.take(1)[0]);
    assert_eq!(told["run"]["id"], run.report().run.id);
    assert_eq!(told["run"]["service"], "mysql");
    let told = &told["findings"];
    assert!(
        told.as_array()
            .unwrap()
            .iter()
            .any(|it| it["id"] == finding.id && it["fix"] == "use the mirror" && it["new"] == true),
        "{told:#}"
    );
    let told = json(&slack.1.take(1)[0]);
    let text = told["text"].as_str().unwrap();
    assert!(
        text.contains("mysql") && text.contains("use the mirror"),
        "{text}"
    );
    let told = json(&manager.1.take(1)[0]);
    let alert = told
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["labels"]["finding"] == finding.id)
        .unwrap();
    assert_eq!(alert["labels"]["service"], "mysql");
    assert!(
        manager.1.seen()[0].ends_with("/api/v2/alerts"),
        "{:?}",
        manager.1.seen()
    );

    collector.1.take(2);
    let [traces, logs] = ["/v1/traces", "/v1/logs"].map(|path| {
        let seen = collector.1.seen();
        let at = seen.iter().position(|it| it.ends_with(path)).unwrap();
        json(&collector.1.taken()[at])
    });
    let spans = &traces["resourceSpans"][0]["scopeSpans"][0]["spans"];
    assert_eq!(
        spans.as_array().unwrap().len(),
        run.report().subjects.len() + 1
    );
    let trace = run.report().run.id.replace('-', "");
    assert_eq!(spans[0]["traceId"], trace);
    let record = &logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["traceId"], trace);

    let lines: Vec<Value> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(json)
        .collect();
    assert_eq!(lines.len(), run.report().findings.len() + 1);
    assert_eq!(lines.last().unwrap()["type"], "run");
    assert_eq!(lines.last().unwrap()["run"]["exit_code"], 6);
    assert!(lines.last().unwrap()["run"]["refused"].as_u64() > Some(0));
    assert_eq!(
        fs::metadata(&log).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut entry = [0; 65_536];
    let mut entries = Vec::new();
    for _ in &lines {
        let length = journal.recv(&mut entry).unwrap();
        entries.push(String::from_utf8_lossy(&entry[..length]).into_owned());
    }
    assert!(
        entries
            .iter()
            .any(|it| it.contains("BLACKSTART_FINDING\n") && it.contains(&finding.id)),
        "{entries:?}"
    );
    let metrics = fs::read_to_string(&prom).unwrap();
    for line in [
        "blackstart_runs_total{outcome=\"failed\",service=\"mysql\"} 1\n",
        "blackstart_last_run_exit_code{service=\"mysql\"} 6\n",
        "blackstart_findings_total{kind=\"denied_dependency\",service=\"mysql\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // The same again is no news for people, and one more run for the logs.
    scene.all_is_sent();
    scene.deploy(&targets);
    let lines: Vec<Value> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(json)
        .collect();
    assert_eq!(lines.iter().filter(|it| it["type"] == "run").count(), 2);
    let again = lines
        .iter()
        .rev()
        .find(|it| it["finding"]["id"] == *finding.id);
    assert_eq!(again.unwrap()["finding"]["new"], false);
    let metrics = fs::read_to_string(&prom).unwrap();
    assert!(
        metrics.contains("outcome=\"failed\",service=\"mysql\"} 2\n"),
        "{metrics}"
    );
    scene.all_is_sent();
    assert_eq!(
        (
            collector.1.taken().len(),
            webhook.1.taken().len(),
            slack.1.taken().len(),
            manager.1.taken().len()
        ),
        (4, 1, 1, 1)
    );

    // Unless somebody asks for it.
    let guard = scene.guard().arg(&format!("--notify={}", targets[0]));
    guard
        .arg("--notify-all")
        .run(&["curl", "-sS", "-m", "20", "http://api.github.com/"])
        .exits(6);
    webhook.1.take(2);
    // The URL is in nothing that others read.
    let report = serde_json::to_string(run.report()).unwrap();
    for text in [
        &report,
        &run.ended.stderr,
        &fs::read_to_string(&log).unwrap(),
    ] {
        assert!(!text.contains("hidden-path"), "{text}");
    }
}

#[test]
fn what_hangs_or_is_down_holds_up_nobody() {
    let shown = case!(66, "who is told hangs or is down");
    let scene = Scene::new("notify-hangs");
    let sink = scene.alerts();
    let hangs = sink.sink(8001, &[0]);
    let targets = [
        format!("webhook:http://{}:8001/", sink.v4()),
        // Nobody listens there, nobody is there, and nobody knows the name.
        format!("slack:http://{}:8002/", sink.v4()),
        "alertmanager:http://10.77.0.249/".to_owned(),
        "webhook:https://nowhere.invalid/".to_owned(),
    ];
    let bare = scene.deploy(&[]).ended.took;
    let run = scene.deploy(&targets);
    // The client alone would wait for five seconds.
    assert!(
        run.ended.took < bare + Duration::from_secs(3),
        "{:?} with, {bare:?} without",
        run.ended.took
    );
    assert_eq!(scene.waiting(), 4);
    let sending = scene.sender();
    // It holds nothing of the run's, and is in no cgroup of it.
    let sender = sending.as_raw_nonzero();
    let cgroup = fs::read_to_string(format!("/proc/{sender}/cgroup")).unwrap();
    assert!(!cgroup.contains(&run.report().run.id), "{cgroup}");
    let command = fs::read_to_string(format!("/proc/{sender}/cmdline")).unwrap();
    assert!(!command.contains("http"), "{command}");
    // It may be killed: everything is still there.
    kill_process(sending, Signal::KILL).unwrap();
    assert_eq!(scene.waiting(), 4);
    drop(hangs);
    let flushed = scene
        .world
        .guard()
        .blackstart(&["notify", "flush"])
        .exits(1);
    assert!(
        flushed.stdout.starts_with("0 sent, 4 waiting\n"),
        "{flushed:?}"
    );
    for why in ["Connection refused", "not found", "in time"] {
        assert!(flushed.stdout.contains(why), "{why}: {flushed:?}");
    }
    shown.is(Becomes::Kept, Held::Loosely);
}

#[test]
fn what_fails_once_is_sent_again() {
    let scene = Scene::new("notify-again");
    let sink = scene.alerts();
    let web = sink.sink(8001, &[500, 429, 200]);
    let target = format!("webhook:http://{}:8001/", sink.v4());
    scene.deploy(&[target]);
    let taken = web.take(3);
    assert!(taken.windows(2).all(|pair| pair[0] == pair[1]));
    scene.all_is_sent();
    // What is not taken for good is kept, and told to whoever asks.
    let wrong = sink.sink(8002, &[404]);
    scene.deploy(&[format!("webhook:http://{}:8002/", sink.v4())]);
    wrong.take(1);
    let flushed = scene
        .world
        .guard()
        .blackstart(&["notify", "flush"])
        .exits(1);
    assert!(flushed.stdout.contains("it answered 404"), "{flushed:?}");
}

#[test]
fn the_next_command_sends_what_waits() {
    let scene = Scene::new("notify-next");
    let sink = scene.alerts();
    let target = format!("webhook:http://{}:8001/", sink.v4());
    scene.deploy(&[target]);
    kill_process(scene.sender(), Signal::KILL).unwrap();
    while !scene.senders().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(scene.waiting(), 1);
    // The file of a message says when it is due; as if that had come.
    let file = fs::read_dir(scene.spool())
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let name = file.file_name().into_string().unwrap();
    let due = format!("{:020}{}", 1, &name[20..]);
    fs::rename(file.path(), scene.spool().join(due)).unwrap();
    let web = sink.sink(8001, &[200]);
    scene.world.guard().blackstart(&["runs", "list"]).exits(0);
    web.take(1);
    scene.all_is_sent();
}

#[test]
fn tls_is_checked_by_what_the_host_trusts() {
    let scene = Scene::new("notify-tls");
    let sink = scene.world.node("alerts2");
    scene
        .world
        .hosts_line(&format!("{} hooks.internal", sink.v4()));
    let authority = scene.world.authority();
    let web = sink.sink_https(&[200], &authority, &["hooks.internal"]);
    scene.deploy(&["webhook:https://hooks.internal/x".to_owned()]);
    web.take(1);
    scene.all_is_sent();
    // Its certificate is not for this name.
    let address = format!("webhook:https://{}/x", sink.v4());
    scene.deploy(&[address]);
    let flushed = scene
        .world
        .guard()
        .blackstart(&["notify", "flush"])
        .exits(1);
    assert!(
        flushed.stdout.contains("certificate not valid for name"),
        "{flushed:?}"
    );
    assert_eq!(web.taken().len(), 1);
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_nobody() {
    let scene = Scene::new("notify-pipe");
    let pipe = scene.world.dir().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let targets = [format!("file:{}", pipe.display())];
    let run = scene.deploy(&targets);
    let lines = run.report().findings.len() + 1;
    run.warns(&format!(
        "{lines} lines were dropped, since nobody reads it"
    ));
    // Somebody does.
    let reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(without_waiting())
        .open(&pipe)
        .unwrap();
    scene.deploy(&targets);
    let mut text = String::new();
    BufReader::new(&reader).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().map(json).count(), lines);
    // Somebody has it open, and takes nothing out of it until it is full.
    let began = Instant::now();
    let mut dropped = false;
    while !dropped {
        assert!(
            began.elapsed() < Duration::from_secs(100),
            "it is never full"
        );
        dropped = scene.deploy(&targets).ended.stderr.contains("were dropped");
    }
    // Whatever came through came as whole lines.
    let mut buffered = BufReader::new(&reader);
    let mut line = String::new();
    let mut read = 0;
    while buffered.read_line(&mut line).is_ok_and(|length| length > 0) {
        json(&line);
        line.clear();
        read += 1;
    }
    assert!(read > 0);
}

fn without_waiting() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

#[test]
fn a_spool_on_a_full_disk_costs_a_warning() {
    let scene = Scene::new("notify-full");
    let sink = scene.alerts();
    let web = sink.sink(8001, &[200]);
    let notify = scene.world.guard().state().join("notify");
    fs::create_dir_all(&notify).unwrap();
    fs::set_permissions(&notify, fs::Permissions::from_mode(0o700)).unwrap();
    // Where the command runs, and only there, the spool is a file system without room.
    let script = format!(
        "mount -t tmpfs -o size=4k,mode=0700 full '{0}' && mkdir -m 0700 '{0}/spool' && \
         {{ dd if=/dev/zero of='{0}/fill' bs=4k count=1 2>/dev/null || true; }} && exec \"$@\"",
        notify.display()
    );
    let through = ["unshare", "--mount", "sh", "-ec", &script, "sh"].map(str::to_owned);
    let target = format!("webhook:http://{}:8001/", sink.v4());
    let run = scene
        .guard()
        .arg(&format!("--notify={target}"))
        .through(through.to_vec())
        .run(&["curl", "-sS", "-m", "20", "http://api.github.com/"])
        .exits(6);
    run.warns("No space left on device");
    assert!(web.taken().is_empty());
    // It was not told, and so is news in the next run.
    scene.deploy(&[target]);
    web.take(1);
}

#[test]
fn the_hosts_own_targets_are_told_and_stop_nobody() {
    let scene = Scene::new("notify-host");
    let log = scene.world.dir().join("host.jsonl");
    let file = scene.world.file(
        "targets",
        &format!(
            "# of this host\n\nfile:{}\nslak:https://x.example/hidden\n",
            log.display()
        ),
    );
    let guard = || {
        scene
            .guard()
            .env("BLACKSTART_NOTIFY", &file.display().to_string())
    };
    let run = guard().run(&["true"]).exits(0);
    assert_eq!(
        fs::read_to_string(&log)
            .unwrap()
            .lines()
            .map(json)
            .next_back()
            .unwrap()["type"],
        "run"
    );
    let run = run.warns("targets:4: this target is not told");
    assert!(!run.ended.stderr.contains("hidden"), "{:?}", run.ended);
    let before = fs::read(&log).unwrap();
    guard().arg("--notify=none").run(&["true"]).exits(0);
    assert_eq!(fs::read(&log).unwrap(), before);
    // What is typed wrongly is found out before anything runs.
    guard()
        .arg("--notify=slak:https://x.example/hidden")
        .run(&["true"])
        .exits(125);

    // A supervisor is killed: whoever cleans up after it tells, those as well that were typed.
    let typed = scene.world.dir().join("typed.jsonl");
    let target = format!("--notify=file:{}", typed.display());
    let mut run = guard()
        .arg(&target)
        .start(&["sh", "-c", "echo up; exec sleep 1000"]);
    run.running().wait_for("up");
    let supervisor = run.running().pid();
    let children = format!("/proc/{0}/task/{0}/children", supervisor.as_raw_nonzero());
    let child: i32 = fs::read_to_string(children)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let child = Pid::from_raw(child).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    run.wait();
    kill_process(child, Signal::KILL).unwrap();
    while test_kill_process(child).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its findings have lines of their own.
    let runs = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        text.lines()
            .filter(|line| json(line)["type"] == "run")
            .count()
    };
    let known = runs(&log);
    guard().blackstart(&["runs", "list"]).exits(0);
    assert_eq!(runs(&log), known + 1);
    assert_eq!(runs(&typed), 1);
    let left = fs::read_dir(scene.world.guard().state().join("notify/typed")).unwrap();
    assert_eq!(left.count(), 0);
    // With nobody killed it is told once, and nothing of it is kept.
    guard().arg(&target).run(&["true"]).exits(0);
    guard().blackstart(&["runs", "list"]).exits(0);
    assert_eq!(runs(&typed), 2);
    let left = fs::read_dir(scene.world.guard().state().join("notify/typed")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn what_the_policy_takes_away_is_not_taken_from_the_sender() {
    let scene = Scene::new("notify-denied");
    let sink = scene.alerts();
    let web = sink.sink(80, &[200]);
    scene
        .world
        .hosts_line(&format!("{} hooks.internal", sink.v4()));
    let url = format!("http://{}/", sink.v4());
    let run = scene
        .world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules: []\n")
        .arg(&format!("--notify=webhook:{url}"))
        .run(&["curl", "-sS", "-m", "20", &url])
        .exits(7);
    assert_eq!(
        run.flow(sink.v4(), 80).verdict,
        blackstart_core::report::Verdict::Deny
    );
    // The only post is the sender's.
    web.take(1);
    assert_eq!(web.seen().len(), 1);
}

#[test]
fn a_url_in_a_guarded_command_line_is_masked() {
    let scene = Scene::new("notify-nested");
    let inner = blackstart_lab::guard::binary();
    let run = scene
        .world
        .guard()
        .run(&[
            "sh",
            "-c",
            &format!("'{inner}' run --notify slack:https://hooks.example/T0/hidden --notify=webhook:https://hooks.example/hidden --mode nonsense -- true; true"),
        ])
        .exits(0);
    let report = serde_json::to_string(run.report()).unwrap();
    assert!(
        report.contains("slack:https://hooks.example/***"),
        "{report}"
    );
    assert!(!report.contains("hidden"), "{report}");
}

#[test]
fn a_lock_of_the_caller_ends_with_the_run() {
    let scene = Scene::new("notify-lock");
    let sink = scene.alerts();
    let _hangs = sink.sink(8001, &[0]);
    let lock = scene.world.file("lock", "");
    let script = format!("exec 9>'{}'; flock 9; exec \"$@\"", lock.display());
    let through = ["sh", "-ec", &script, "sh"].map(str::to_owned);
    scene
        .guard()
        .arg(&format!("--notify=webhook:http://{}:8001/", sink.v4()))
        .through(through.to_vec())
        .run(&["curl", "-sS", "-m", "20", "http://api.github.com/"])
        .exits(6);
    let sender = scene.sender();
    let file = fs::File::open(&lock).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .expect("whoever comes next has the lock");
    // It was still at work.
    kill_process(sender, Signal::KILL).unwrap();
}
