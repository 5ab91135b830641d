//! Daemons that are asked over unix sockets: what a rule about such a socket holds, and what `--hide-sockets` adds to it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use blackstart_core::report::{SOCKET_ALIAS, Severity, Verdict};
use blackstart_lab::{Agent, Guarded, World, Zone, case};

/// Listens at each path that it is given, and says so.
const DAEMON: &str = "import socket, select, sys\n\
    made = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]\n\
    for s, path in zip(made, sys.argv[1:]): s.bind(path.replace('@', '\\0')); s.listen(64)\n\
    print('ready', flush=True)\n\
    while True: [s.accept() for s in select.select(made, [], [])[0]]\n";

/// Reaches for each path that it is given, and says what came of it.
const CLIENT: &str = "import socket, sys\n\
    for path in sys.argv[1:]:\n  \
      try: socket.socket(socket.AF_UNIX).connect(path.replace('@', '\\0')); print(path, 'reached')\n  \
      except OSError as e: print(path, e.strerror)\n";

fn python(code: &str, paths: &[String]) -> Vec<String> {
    let words = ["/usr/bin/python3", "-c", code].map(str::to_owned);
    [&words[..], paths].concat()
}

/// What came of each path.
fn told(run: &Guarded) -> BTreeMap<String, String> {
    let lines = run.ended.stdout.lines();
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(path, what)| (path.to_owned(), what.to_owned()))
        .collect()
}

fn verdicts(run: &Guarded, path: &str) -> Vec<Verdict> {
    let delegates = run.report().delegates.iter();
    delegates
        .filter(|one| one.path == path)
        .map(|one| one.verdict)
        .collect()
}

/// A host on which a socket is to be seen at several places: `denied`, a link to it, and two mounts.
struct Host {
    world: World,
    dir: String,
}

impl Host {
    fn new(test: &str) -> Self {
        let world = World::new(test);
        let dir = world.dir().join("run");
        std::fs::create_dir(&dir).unwrap();
        for name in ["mounted", "elsewhere/denied"] {
            let at = dir.join(name);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, "").unwrap();
        }
        std::fs::create_dir(dir.join("sockets")).unwrap();
        std::os::unix::fs::symlink("sockets/denied", dir.join("linked")).unwrap();
        let dir = dir.display().to_string();
        Self { world, dir }
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The command by which another is started among its mounts.
    fn among_mounts(&self) -> Vec<String> {
        let Self { dir, .. } = self;
        let mounts = format!(
            "mount --bind {dir} {dir} && mount --make-shared {dir} && mount --bind {dir}/sockets/denied {dir}/mounted && \
             mount --bind {dir}/sockets {dir}/elsewhere && exec \"$@\""
        );
        ["unshare", "-m", "sh", "-c", &mounts, "sh"]
            .map(str::to_owned)
            .into()
    }

    /// A run on it, whose mounts are shared with whoever has the same.
    fn guard(&self, policy: &str) -> blackstart_lab::Guard<'_> {
        let policy = policy.replace("DIR", &self.dir);
        let guard = self.world.guard().policy(&policy);
        guard.through(self.among_mounts())
    }
}

#[test]
fn a_denied_socket_is_out_of_reach_by_every_path() {
    let host = Host::new("hide");
    let [denied, other] = ["sockets/denied", "sockets/other"].map(|name| host.at(name));
    let mut daemon = host
        .world
        .start(&python(DAEMON, &[denied.clone(), other.clone()]));
    daemon.wait_for("ready");
    let aliases = ["linked", "mounted", "elsewhere/denied"].map(|name| host.at(name));
    let all = [&[denied.clone(), other.clone()][..], &aliases].concat();
    let client = python(CLIENT, &all);
    let policy = "mode: enforce\nrules:\n  - deny: unix:DIR/sockets/denied\n";

    // By its path alone, the rule does not know it elsewhere.
    let run = host.guard(policy).run(&client).exits(0);
    let reached = told(&run);
    assert_eq!(reached[&denied], "Connection refused");
    assert_eq!(verdicts(&run, &denied), [Verdict::Deny]);
    for path in aliases.iter().chain([&other]) {
        assert_eq!(reached[path], "reached", "{path}");
    }

    let run = host
        .guard(policy)
        .arg("--hide-sockets")
        .run(&client)
        .exits(0);
    let hidden = told(&run);
    for path in aliases.iter().chain([&denied]) {
        assert_eq!(hidden[path], "Connection refused", "{path}");
    }
    assert_eq!(hidden[&other], "reached");
    assert_eq!(verdicts(&run, &denied), [Verdict::Deny]);
    assert_eq!(verdicts(&run, &other), [Verdict::Allow]);
    assert!(!run.gaps().contains("unix_rules"), "{run:?}");
    let features = &run.report().run.kernel.features;
    assert!(features.iter().any(|feature| feature == "hide_sockets"));
    // The same, contained.
    let run = host
        .guard(policy)
        .arg("--hide-sockets")
        .arg("--contain")
        .run(&client)
        .exits(0);
    assert_eq!(told(&run), hidden);
    assert_eq!(host.world.left_behind(), Vec::<PathBuf>::new());
}

/// What was reached by a path: the name of its socket where that is another one's, and how often.
fn behind(run: &Guarded, path: &str) -> (Option<String>, Verdict, String) {
    let rows = run.report().delegates.iter();
    let rows: Vec<_> = rows.filter(|one| one.path == path).collect();
    let [row] = rows[..] else {
        panic!("one contact by {path}: {rows:?}: {run:?}");
    };
    (row.reached.clone(), row.verdict, row.rule.clone())
}

/// Where no LSM refuses it.
#[test]
fn a_denied_socket_that_was_reached_by_another_path_is_found_out() {
    let link = case!(42, "its daemon's denied socket, by a link");
    let mount = case!(42, "its daemon's denied socket, by a bind mount");
    let host = Host::new("alias");
    let [denied, other] = ["sockets/denied", "sockets/other"].map(|name| host.at(name));
    let mut daemon = host
        .world
        .start(&python(DAEMON, &[denied.clone(), other.clone()]));
    daemon.wait_for("ready");
    let aliases = ["linked", "mounted", "elsewhere/denied"].map(|name| host.at(name));
    // What is not there is no alias of anything, whoever asks for it.
    let nobody = ["sockets/nobody", "none/such"].map(|name| host.at(name));
    let all = [&aliases[..], std::slice::from_ref(&other), &nobody].concat();
    let client = python(CLIENT, &all);
    let outside = host
        .world
        .run(&[&host.among_mounts()[..], &client].concat())
        .exits(0);
    for path in &aliases {
        assert!(
            outside.stdout.contains(&format!("{path} reached")),
            "{path}"
        );
    }

    let policy = "mode: enforce\nrules:\n  - deny: unix:DIR/sockets/denied\n";
    let run = host.guard(policy).run(&client).exits(0);
    if run
        .report()
        .run
        .kernel
        .features
        .iter()
        .any(|it| it == "unix_names")
    {
        for path in &aliases {
            assert_eq!(told(&run)[path], "Connection refused");
        }
        return;
    }
    let rule = format!("deny unix:{denied}");
    for path in &aliases {
        assert_eq!(told(&run)[path], "reached");
        let told = (Some(denied.clone()), Verdict::WouldDeny, rule.clone());
        assert_eq!(behind(&run, path), told, "{path}");
        let rows = &run.report().delegates;
        let row = rows.iter().find(|one| one.path == *path);
        let listener = row.and_then(|row| row.listener_exe.as_deref());
        assert!(
            listener.is_some_and(|exe| exe.contains("python")),
            "{row:?}"
        );
    }
    for path in [&other, &nobody[0], &nobody[1]] {
        assert_eq!(behind(&run, path).0, None);
        assert_eq!(behind(&run, path).1, Verdict::Allow, "{path}");
    }
    let gap = |run: &Guarded, kind: &str| {
        let mut gaps = run.report().coverage.gaps.iter();
        gaps.find(|gap| gap.kind == kind).map(|gap| gap.count)
    };
    assert_eq!(gap(&run, "unix_rules"), Some(3));
    assert_eq!(gap(&run, "unix_aliases"), None, "{run:?}");
    let found = run.report().findings.iter();
    let found: Vec<_> = found.filter(|one| one.kind == SOCKET_ALIAS).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    for one in &found {
        assert_eq!(one.severity, Severity::Error);
        assert!(one.title.contains(&denied), "{one:?}");
    }
    assert!(run.ended.stderr.contains("linked"), "it is told: {run:?}");
    link.worked_outside().gap(&run, "unix_rules");
    mount.worked_outside().gap(&run, "unix_rules");

    // What is only to be recorded is, and is no gap.
    let run = host
        .guard(&policy.replace("enforce", "observe"))
        .run(&client)
        .exits(0);
    for path in &aliases {
        let told = (Some(denied.clone()), Verdict::WouldDeny, rule.clone());
        assert_eq!(behind(&run, path), told, "{path}");
    }
    assert_eq!(gap(&run, "unix_rules"), None);
    // No rule, no question.
    let run = host.guard("rules: []\n").run(&client).exits(0);
    for path in &all {
        assert_eq!(behind(&run, path).0, None);
    }
}

#[test]
fn a_socket_of_which_nobody_can_tell_whose_it_is_is_counted() {
    let host = Host::new("alias_unknown");
    let [denied, elsewhere] = ["sockets/denied", "sockets/elsewhere"].map(|name| host.at(name));
    let mut near = host
        .world
        .start(&python(DAEMON, std::slice::from_ref(&denied)));
    near.wait_for("ready");
    // Of which sockets are bound the kernel tells for one network namespace each, and the daemon's is none of the run's. It takes
    // datagrams: a connection has the name of its server on it, in the namespace of whoever connected, for as long as it is there.
    let datagrams = |code: &str| code.replace("AF_UNIX)", "AF_UNIX, socket.SOCK_DGRAM)");
    let receiver = datagrams(DAEMON)
        .replace(" s.listen(64)", "")
        .replace("accept()", "recv(9)");
    let daemon = python(&receiver, std::slice::from_ref(&elsewhere));
    let alone = ["unshare", "-n"].map(str::to_owned);
    let mut daemon = host.world.start(&[&alone[..], &daemon].concat());
    daemon.wait_for("ready");
    let client = python(&datagrams(CLIENT), std::slice::from_ref(&elsewhere));
    let policy = "mode: enforce\nrules:\n  - deny: unix:DIR/sockets/denied\n";
    let run = host.guard(policy).run(&client).exits(0);
    assert_eq!(told(&run)[&elsewhere], "reached");
    assert_eq!(behind(&run, &elsewhere).0, None);
    if run
        .report()
        .run
        .kernel
        .features
        .iter()
        .any(|it| it == "unix_names")
    {
        return;
    }
    let gaps = &run.report().coverage.gaps;
    let gap = gaps.iter().find(|gap| gap.kind == "unix_aliases");
    assert_eq!(gap.map(|gap| gap.count), Some(1), "{gaps:?}");
    assert!(!run.gaps().contains("unix_rules"), "{gaps:?}");
    // Nobody asks where nothing is denied, or every path of it is covered.
    for (policy, flags) in [("rules: []\n", &[][..]), (policy, &["--hide-sockets"])] {
        let mut guard = host.guard(policy);
        for flag in flags {
            guard = guard.arg(flag);
        }
        let run = guard.run(&client).exits(0);
        assert!(!run.gaps().contains("unix_aliases"), "{run:?}");
    }
}

#[test]
fn the_cover_is_the_run_s_own() {
    let host = Host::new("hide_mounts");
    let denied = host.at("sockets/denied");
    let mut daemon = host
        .world
        .start(&python(DAEMON, std::slice::from_ref(&denied)));
    daemon.wait_for("ready");
    let script = format!(
        "grep -c ' /null {denied} ' /proc/self/mountinfo; mount -t tmpfs none {0} && echo mounted; touch ready; \
         until [ -e go ]; do sleep 0.05; done",
        host.at("elsewhere")
    );
    let mut run = host
        .guard("mode: enforce\nrules:\n  - deny: unix:DIR/sockets/denied\n")
        .arg("--hide-sockets")
        .start(&["sh", "-c", &script]);
    let ready = host.world.dir().join("ready");
    while !ready.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let supervisor = run.running().pid().as_raw_pid();
    let mounts = || std::fs::read_to_string(format!("/proc/{supervisor}/mountinfo")).unwrap();
    assert!(mounts().contains(&host.dir), "it has the host's mounts");
    let cover = format!(" /null {denied} ");
    assert!(!mounts().contains(&cover), "{}", mounts());
    let tmpfs = format!(" {} ", host.at("elsewhere"));
    assert_eq!(
        mounts()
            .lines()
            .filter(|line| line.contains(&tmpfs))
            .count(),
        1
    );
    std::fs::write(host.world.dir().join("go"), "").unwrap();
    let run = run.wait().exits(0).says("mounted");
    assert_eq!(
        run.ended.stdout.lines().next(),
        Some("1"),
        "it is covered inside"
    );
}

#[test]
fn what_is_not_there_or_has_no_path_is_refused_by_the_hooks_alone() {
    let host = Host::new("hide_absent");
    let name = format!("@blackstart-{}", host.world.id());
    let late = host.at("sockets/late");
    let policy =
        format!("mode: enforce\nrules:\n  - deny: unix:{late}\n  - deny: \"unix:{name}\"\n");
    let mut daemon = host
        .world
        .start(&python(DAEMON, std::slice::from_ref(&name)));
    daemon.wait_for("ready");
    let reach = python(CLIENT, &[late.clone(), name.clone()]);
    assert!(host.world.run(&reach).stdout.contains("reached"));
    // Whoever comes to listen there while the run is on.
    let serve = format!("{DAEMON}\n");
    let serve = host.world.file("serve.py", &serve).display().to_string();
    let script = format!(
        "/usr/bin/python3 {serve} {late} >told & until grep -q ready told; do sleep 0.01; done; \"$@\"; kill $!"
    );
    let command = [
        &["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()][..],
        &reach,
    ]
    .concat();
    let run = host
        .world
        .guard()
        .policy(&policy)
        .arg("--hide-sockets")
        .run(&command)
        .exits(0);
    let refused = told(&run);
    for path in [&late, &name] {
        assert_eq!(refused[path], "Connection refused", "{path}");
        assert_eq!(verdicts(&run, path), [Verdict::Deny], "{path}");
    }
}

#[test]
fn nobody_without_root_is_told_that_sockets_are_hidden() {
    let world = World::new("hide_user");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &[]);
    let policy = "mode: enforce\nrules:\n  - deny: unix:/run/docker.sock\n";
    let refused = agent
        .guard()
        .policy(policy)
        .arg("--hide-sockets")
        .run(&["touch", "it-ran"]);
    assert_eq!(refused.ended.code, 125, "{refused:?}");
    assert!(
        refused.ended.stderr.contains("--hide-sockets"),
        "{refused:?}"
    );
    assert!(!world.dir().join("it-ran").exists());
}

/// Root's rights would look behind doors that are closed to whoever asks.
#[test]
fn for_callers_of_the_agent_nobody_looks_where_a_path_leads() {
    let host = Host::new("alias_agent");
    host.world.dns(Zone::new());
    let denied = host.at("sockets/denied");
    let mut daemon = host
        .world
        .start(&python(DAEMON, std::slice::from_ref(&denied)));
    daemon.wait_for("ready");
    let agent = Agent::start(&host.world, &[]);
    let policy = format!("mode: enforce\nrules:\n  - deny: unix:{denied}\n");
    let linked = host.at("linked");
    let client = python(CLIENT, std::slice::from_ref(&linked));
    let run = agent.guard().policy(&policy).run(&client).exits(0);
    if run
        .report()
        .run
        .kernel
        .features
        .contains(&"unix_sockets".to_owned())
    {
        let (reached, verdict, _) = behind(&run, &linked);
        assert_eq!((reached, verdict), (None, Verdict::Allow));
        assert!(run.gaps().contains("unix_aliases"), "{run:?}");
    }
}
