//! A host whose PID 1 is systemd: a run is a scope of it, and needs it for nothing.

use std::path::PathBuf;

use blackstart_core::report::{Guarded, Report, Verdict};
use blackstart_lab::systemd::{BARE, shipped};
use blackstart_lab::{Becomes, Bus, Cgroups, Ended, Held, World, case};

/// What the script says below the heading `[of this name]`.
#[track_caller]
fn part(ended: &Ended, heading: &str) -> String {
    let begin = format!("[{heading}]");
    assert!(ended.stdout.contains(&begin), "no {begin} in {ended:?}");
    let mut lines = ended.stdout.lines();
    lines.by_ref().find(|line| *line == begin);
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with('[')).collect();
    lines.join("\n")
}

fn world_with_github(name: &str) -> World {
    World::with_web(name, &["github.com"]).0
}

/// What the tests look at from within a run: its cgroup, what systemd knows of it, what is refused.
const LOOK: &str = "echo '[cgroup]'; sed -n s/^0:://p /proc/self/cgroup\n\
    echo '[scope]'; systemctl show -p ActiveState -p ControlGroup -p Delegate 'blackstart-*.scope'\n\
    echo '[curl]'; curl -sS http://github.com/ 2>&1 || echo refused\n";

/// Run the guard on the machine, then look at what is left of the run (the hierarchies of the first version are the whole
/// machine's, so what was there before does not count). systemd takes a scope away once it has heard that
/// it is empty, hierarchy by hierarchy: it has ten seconds.
fn story(world: &World, command: &str) -> String {
    world.file("look", LOOK);
    let guard = world
        .guard()
        .arg("-q")
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .line()
        .join(" ");
    format!(
        "cgroups() {{ find /sys/fs/cgroup -name '*blackstart*' | grep -vxFf before || true; }}\n\
         : >before; cgroups >earlier; mv earlier before\n\
         began=$(date +%s%3N)\n\
         {guard} sh -c '{command}'\n\
         echo '[took]'; echo $(($(date +%s%3N) - began))\n\
         for turn in $(seq 100); do\n\
           [ -z \"$(systemctl list-units --all --plain --no-legend 'blackstart*'; cgroups)\" ] && break\n\
           sleep 0.1\n\
         done\n\
         echo '[units]'; systemctl list-units --all --plain --no-legend 'blackstart*'\n\
         echo '[cgroups]'; cgroups\n\
         echo '[free]'; curl -sS http://github.com/\n\
         echo '[end]'\n"
    )
}

fn report(world: &World) -> Report {
    let path = std::fs::read_dir(world.dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "json"));
    serde_json::from_slice(&std::fs::read(path.expect("there is a report")).unwrap()).unwrap()
}

#[test]
fn a_run_is_a_delegated_scope_and_leaves_none() {
    is_a_scope(&world_with_github("scope"), Cgroups::Unified);
}

#[test]
fn a_run_on_a_hybrid_host_is_a_scope_as_well() {
    let shown = case!(49, "a hybrid host with systemd");
    is_a_scope(&world_with_github("hybrid"), Cgroups::Hybrid);
    // `is_a_scope` has it refused within, and free after.
    shown.worked_outside().is(Becomes::Refused, Held::Loosely);
}

fn is_a_scope(world: &World, cgroups: Cgroups) {
    let command = format!(
        "sh {0}/look; setsid sh -c \"echo \\$\\$ >{0}/pid; exec sleep 300\" >/dev/null 2>&1 & \
         until [ -s {0}/pid ]; do sleep 0.01; done",
        world.dir().display()
    );
    let mut script = story(world, &command);
    script += "echo '[first version]'; sed -n 's/.*:name=systemd://p' /proc/self/cgroup\n";
    script += "echo '[daemon]'; sed -n s/^0:://p /proc/$(cat pid)/cgroup\n";
    let ended = world.boot(cgroups, Bus::Answers, &script).succeeds();
    let both = part(&ended, "first version") == "/system.slice/script.service";
    assert_eq!(both, cgroups == Cgroups::Hybrid, "{ended:?}");
    let report = report(world);
    let id = &report.run.id;
    let scope = format!("/system.slice/blackstart-{id}.scope");
    assert_eq!(part(&ended, "cgroup"), format!("{scope}/{id}"));
    let told = part(&ended, "scope");
    for line in [
        "ActiveState=active",
        "Delegate=yes",
        &format!("ControlGroup={scope}"),
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    assert!(part(&ended, "curl").ends_with("refused"), "{ended:?}");
    assert_eq!(report.run.guarded, Guarded::Yes);
    let lookup = report.names.iter().find(|name| name.name == "github.com");
    assert_eq!(lookup.unwrap().verdict, Verdict::Deny);
    // What is asked of systemd is done outside of the run: that is told.
    let contact = report
        .delegates
        .iter()
        .find(|delegate| delegate.path == "/run/systemd/private");
    assert!(contact.is_some(), "{:?}", report.delegates);
    // Nothing of it is left, except the daemon, which is now where the guard was started.
    assert_eq!(part(&ended, "units"), "");
    assert_eq!(part(&ended, "cgroups"), "");
    assert_eq!(part(&ended, "free"), "hello from github");
    assert_eq!(part(&ended, "daemon"), "/system.slice/script.service");
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn a_silent_bus_holds_nobody_up() {
    let world = world_with_github("silent_bus");
    let command = format!("sh {}/look", world.dir().display());
    let ended = world
        .boot(Cgroups::Unified, Bus::Silent, &story(&world, &command))
        .succeeds();
    let report = report(&world);
    assert_eq!(
        part(&ended, "cgroup"),
        format!("/blackstart/{}", report.run.id)
    );
    assert!(part(&ended, "curl").ends_with("refused"), "{ended:?}");
    assert_eq!(report.run.guarded, Guarded::Yes);
    let took: u64 = part(&ended, "took").parse().unwrap();
    assert!(
        (500..20_000).contains(&took),
        "it asks for 500 ms, and the bus would keep it for 25 s: {took} ms"
    );
    assert_eq!(part(&ended, "units"), "");
    assert_eq!(part(&ended, "cgroups"), "");
    assert_eq!(part(&ended, "free"), "hello from github");
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn the_machine_ends_as_its_script_does() {
    let world = world_with_github("machine");
    let ended = world.boot(Cgroups::Unified, Bus::Answers, "cat /proc/1/comm; exit 7");
    ended.exits(7).says("systemd");
}

/// The units that are shipped.
const UNITS: [&str; 5] = [
    "blackstart-sweep.service",
    "blackstart-sweep.timer",
    "blackstart-agent.service",
    "blackstart-prune.service",
    "blackstart-prune.timer",
];

#[test]
fn the_shipped_units_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    let paths = UNITS.map(|name| {
        let shipped = blackstart_lab::workspace::root().join("dist/systemd");
        let text = std::fs::read_to_string(shipped.join(name)).unwrap();
        let path = dir.path().join(name);
        std::fs::write(
            &path,
            text.replace("/usr/local/bin/blackstart", "/bin/true"),
        )
        .unwrap();
        path
    });
    let verify = |paths: &[PathBuf]| {
        let ended = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args(paths)
            .output()
            .expect("run systemd-analyze (package systemd)");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let told = verify(&paths);
    assert!(!told.contains("blackstart-"), "{told}");
    // And it does tell.
    let wrong = std::fs::read_to_string(&paths[0]).unwrap() + "ProtectEverything=yes\n";
    std::fs::write(&paths[0], wrong).unwrap();
    assert!(verify(&paths).contains("ProtectEverything"), "{told}");
}

#[test]
fn the_timer_s_service_forgets_what_is_too_much() {
    let world = world_with_github("prune");
    for name in UNITS {
        let text = shipped(name, "Environment=BLACKSTART_STATE=/run/state")
            .replace("/var/lib/blackstart", "/run/state")
            .replace("--larger-than 2GiB", "--larger-than 1KiB");
        world.unit(name, &text);
    }
    let script = "export BLACKSTART_STATE=/run/state\n\
        cp BLACKSTART /run/blackstart-lab; chmod 755 /run/blackstart-lab\n\
        kept() { /run/blackstart-lab runs list --format json | grep -c '\"id\"'; }\n\
        begin() { systemctl start blackstart-prune.service; echo \"began $?\"; }\n\
        echo '[none]'; begin; ls /run/state 2>/dev/null || true\n\
        echo '[before]'; /run/blackstart-lab run -q -- true 2>/dev/null; kept\n\
        echo '[after]'; begin; kept || true; ls /run/state/runs | wc -l\n";
    let ended = world.boot(Cgroups::Unified, Bus::Answers, script);
    let ended = ended.succeeds();
    assert_eq!(part(&ended, "none"), "began 0");
    assert_eq!(part(&ended, "before"), "1");
    assert_eq!(part(&ended, "after"), "began 0\n0\n0");
}

#[test]
fn the_timer_s_service_sweeps_an_orphan() {
    let world = world_with_github("timer");
    let alerts = world.node("alerts");
    let sink = alerts.sink(80, &[200]);
    for name in UNITS {
        let more = "Environment=BLACKSTART_STATE=/run/blackstart BLACKSTART_NOTIFY=/run/targets\nStandardError=file:DIR/told";
        let text = shipped(name, more).replace("/var/lib/blackstart", "/run/blackstart");
        world.unit(name, &text);
    }
    let script = "export BLACKSTART_STATE=/run/blackstart\n\
        cp BLACKSTART /run/blackstart-lab; chmod 755 /run/blackstart-lab\n\
        printf 'file:/run/told.jsonl\\notlp:http://ALERTS\\n' >/run/targets\n\
        left() { ls /run/blackstart/runs/*/lock 2>/dev/null | wc -l; }\n\
        echo '[nothing]'; systemctl start blackstart-sweep.service; systemctl show -p ConditionResult blackstart-sweep.service\n\
        /run/blackstart-lab run -q -- sh -c 'echo $$ >DIR/pid; exec sleep 300' >/dev/null 2>&1 & supervisor=$!\n\
        until [ -s DIR/pid ]; do sleep 0.01; done\n\
        kill -KILL $supervisor; wait $supervisor || true\n\
        systemctl start blackstart-sweep.service; echo '[living]'; left\n\
        group=$(sed -n s/^0:://p /proc/$(cat DIR/pid)/cgroup); kill -KILL $(cat DIR/pid)\n\
        while grep -qs 'populated 1' /sys/fs/cgroup$group/cgroup.events; do sleep 0.01; done\n\
        systemctl start blackstart-sweep.service; echo '[swept]'; left\n\
        for turn in $(seq 200); do [ -z \"$(ls /run/blackstart/notify/spool)\" ] && break; sleep 0.1; done\n\
        echo '[lines]'; grep -c '' /run/told.jsonl\n\
        echo '[reports]'; ls /run/blackstart/runs/*/report.json | wc -l\n\
        echo '[cgroups]'; find /sys/fs/cgroup -name '*blackstart*' ! -path '*sweep*'\n\
        echo '[pins]'; ls /sys/fs/bpf/blackstart 2>/dev/null || true\n\
        echo '[told]'; cat DIR/told\n\
        echo '[end]'\n"
        .replace("ALERTS", &alerts.v4().to_string());
    let ended = world
        .boot(Cgroups::Unified, Bus::Answers, &script)
        .succeeds();
    // It is told of, too: to a file wherever that is, and over the network by who goes on after the unit.
    assert_ne!(part(&ended, "lines"), "0", "{ended:?}");
    assert!(!sink.taken().is_empty(), "{ended:?}");
    assert_eq!(part(&ended, "nothing"), "ConditionResult=no");
    assert_eq!(part(&ended, "living"), "1", "{ended:?}");
    assert_eq!(part(&ended, "swept"), "0", "{ended:?}");
    assert_eq!(part(&ended, "reports"), "1");
    assert_eq!(part(&ended, "cgroups"), "");
    assert_eq!(part(&ended, "pins"), "");
    let told = part(&ended, "told");
    assert!(
        told.starts_with("blackstart: cleaned up after a run") && told.lines().count() == 1,
        "{told}"
    );
}

#[test]
fn the_agent_s_unit_guards_somebody_without_root_and_is_replaced_meanwhile() {
    let world = world_with_github("agent_unit");
    let more = "Environment=BLACKSTART_STATE=/run/blackstart\nStandardError=append:DIR/told";
    let text = shipped("blackstart-agent.service", more);
    let text = text.replace("--group blackstart", "--group 4242");
    world.unit("blackstart-agent.service", &text);
    world.policy("deny.yaml", "mode: enforce\nrules:\n  - deny: github.com\n");
    let script = "cp BLACKSTART /run/blackstart-lab; chmod 755 /run/blackstart-lab; chmod 777 DIR\n\
        listens() { n=0; until [ \"$(grep -c 'takes calls' DIR/told 2>/dev/null)\" = $1 ]; do sleep 0.1; n=$((n+1)); [ $n -lt 300 ] || { cat DIR/told; exit 9; }; done; }\n\
        as() { setpriv --reuid 4001 --regid 4001 --groups 4242 -- \"$@\"; }\n\
        systemctl start blackstart-agent.service; listens 1\n\
        as /run/blackstart-lab run -q --policy DIR/deny.yaml --report DIR/r.json -- sh -c \
          'cd DIR; echo $$ >pid; curl -sS http://github.com/; echo $? >one; until [ -e go ]; do sleep 0.02; done; curl -sS http://github.com/; echo $? >two; sed -n s/^0:://p /proc/self/cgroup >place; exit 5' >/dev/null 2>DIR/said & run=$!\n\
        until [ -s DIR/one ]; do sleep 0.02; kill -0 $run || { cat DIR/said; exit 8; }; done\n\
        systemctl restart blackstart-agent.service; listens 2\n\
        touch DIR/go; code=0; wait $run || code=$?; echo '[code]'; echo $code\n\
        echo '[one]'; cat DIR/one; echo '[two]'; cat DIR/two; echo '[place]'; cat DIR/place\n\
        systemctl stop blackstart-agent.service\n\
        export BLACKSTART_STATE=/run/blackstart; /run/blackstart-lab sweep\n\
        for turn in $(seq 100); do [ -z \"$(find /sys/fs/cgroup -name 'blackstart-*.scope')\" ] && break; sleep 0.1; done\n\
        echo '[free]'; curl -sS http://github.com/\n\
        echo '[cgroups]'; find /sys/fs/cgroup -name 'blackstart-*.scope'\n\
        echo '[pins]'; ls /sys/fs/bpf/blackstart 2>/dev/null || true\n\
        echo '[end]'\n";
    let ended = world
        .boot(Cgroups::Unified, Bus::Answers, script)
        .succeeds();
    let told = || std::fs::read_to_string(world.dir().join("told")).unwrap_or_default();
    assert_eq!(part(&ended, "code"), "5", "{ended:?} {}", told());
    assert_eq!(part(&ended, "one"), "6");
    assert_eq!(part(&ended, "two"), "6");
    assert!(part(&ended, "place").contains("blackstart-"), "{ended:?}");
    assert_eq!(part(&ended, "free"), "hello from github");
    assert_eq!(part(&ended, "cgroups"), "");
    assert_eq!(part(&ended, "pins"), "");
    assert!(told().contains("left by an earlier agent"), "{}", told());
    let report = std::fs::read(world.dir().join("r.json")).unwrap();
    let report: blackstart_core::report::Report = serde_json::from_slice(&report).unwrap();
    assert_eq!(report.run.guarded, Guarded::Yes);
    assert_eq!(report.run.exit_code, Some(5));
}

/// Asks for a name again and again, and says each time what came of it.
const SERVICE: &str = "ExecStart=/bin/sh -c 'while :; do curl -sS -m 5 http://github.com/ >now 2>&1; echo $? >>codes; sleep 0.05; done'\n";

#[test]
fn a_unit_is_attached_to_and_goes_on_as_before() {
    attaches(&world_with_github("attach_unit"), Cgroups::Unified);
}

#[test]
fn a_unit_of_a_hybrid_host_is_attached_to_as_well() {
    attaches(&world_with_github("attach_hybrid"), Cgroups::Hybrid);
}

fn attaches(world: &World, cgroups: Cgroups) {
    world.unit("db.service", &format!("{BARE}{SERVICE}"));
    world.policy("deny.yaml", "mode: enforce\nrules:\n  - deny: github.com\n");
    let script = "systemctl start db.service\n\
         until [ \"$(tail -n1 codes 2>/dev/null)\" = 0 ]; do sleep 0.05; done\n\
         before=$(systemctl show -p MainPID --value db.service)\n\
         BLACKSTART attach --unit db --policy deny.yaml --report r.json 2>said &\n\
         until grep -q 'blackstart: attached to' said; do sleep 0.05; done\n\
         until [ \"$(tail -n1 codes)\" = 6 ]; do sleep 0.05; done\n\
         echo '[outside]'; curl -sS http://github.com/\n\
         kill $!; wait $! && echo '[ended]'\n\
         until [ \"$(tail -n1 codes)\" = 0 ]; do sleep 0.05; done\n\
         [ \"$before\" -gt 1 ] && [ \"$before\" = \"$(systemctl show -p MainPID --value db.service)\" ] && echo '[same]'\n\
         systemctl stop db.service\n\
         BLACKSTART attach --unit db.service 2>&1 || echo '[refused]'\n\
         BLACKSTART attach --unit no-such 2>&1 || true\n\
         echo '[end]'\n";
    let ended = world.boot(cgroups, Bus::Answers, script).succeeds();
    assert_eq!(part(&ended, "outside"), "hello from github");
    for heading in ["[ended]", "[same]", "[refused]"] {
        assert!(ended.stdout.contains(heading), "{heading}: {ended:?}");
    }
    assert!(
        ended.stdout.contains("the unit db.service has no cgroup"),
        "{ended:?}"
    );
    assert!(
        ended
            .stdout
            .contains("systemd knows no unit no-such.service"),
        "{ended:?}"
    );
    let report = report(world);
    let attached = report.run.attached.unwrap();
    assert_eq!(attached.cgroup, "/system.slice/db.service");
    assert_eq!(attached.target, "db");
    // One may have come before the programs were told to refuse.
    let mut lookups = report.names.iter();
    assert!(
        lookups.any(|it| (it.name.as_str(), it.verdict) == ("github.com", Verdict::Deny)),
        "{:?}",
        report.names
    );
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

/// `su -` and `sudo -i` go through pam_systemd, by which systemd takes them into a session of their own, and `systemd-run` has
/// systemd start what it is given. The machine's numbers of processes are not those of the record, so that nobody can be
/// moved back here: what must not be is silence.
#[test]
fn who_is_taken_out_by_a_login_or_by_systemd_is_told() {
    let login = case!(
        40,
        "by `su -` and `sudo -i`, where nobody can be moved back"
    );
    let kept = case!(40, "by `su -`, by a rule about the bus");
    let shelled = case!(40, "by `machinectl shell`");
    let kept_shell = case!(40, "by `machinectl shell`, by a rule about the bus");
    let ran = case!(43, "systemd-run");
    let kept_from = case!(43, "systemd-run, by a rule about systemd's sockets");
    let world = world_with_github("login");
    world.file(
        "booted/units/systemd-logind.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket dbus.service\n\
         [Service]\nType=dbus\nBusName=org.freedesktop.login1\nExecStart=/lib/systemd/systemd-logind\n",
    );
    world.file(
        "booted/units/systemd-machined.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket dbus.service\n\
         [Service]\nType=dbus\nBusName=org.freedesktop.machine1\nExecStart=/lib/systemd/systemd-machined\n",
    );
    // What the unit of such a shell asks for.
    for target in ["sysinit.target", "basic.target", "machine.slice"] {
        world.file(
            &format!("booted/units/{target}"),
            "[Unit]\nDefaultDependencies=no\n",
        );
    }
    let fetch =
        "sed -n s/^0:://p /proc/self/cgroup; curl -sS http://github.com/ 2>&1 || echo refused\n";
    let fetch = world.file("fetch", fetch).display().to_string();
    let su = format!("su - -s /bin/sh -c 'sh {fetch}'");
    let sudo = format!("sudo -n -i sh {fetch}");
    let run = format!("systemd-run -q --wait --pipe -p DefaultDependencies=no sh {fetch}");
    // Through a pipe: into a file it would write from its beginning on.
    let shell = format!("machinectl -q shell root@.host /bin/sh {fetch} | cat");
    let deny = "mode: enforce\nrules:\n  - deny: github.com\n";
    let no_bus = format!("{deny}  - deny: unix:/run/dbus/system_bus_socket\n");
    let no_systemd = format!("{no_bus}  - deny: unix:/run/systemd/private\n");
    let guarded = [
        ("su", deny, "--no-contain", &su),
        ("su contained", deny, "--contain", &su),
        ("sudo", deny, "--no-contain", &sudo),
        ("su by rule", &no_bus, "--no-contain", &su),
        ("su by rule contained", &no_bus, "--contain", &su),
        ("machinectl", deny, "--no-contain", &shell),
        ("machinectl contained", deny, "--contain", &shell),
        ("machinectl by rule", &no_bus, "--no-contain", &shell),
        ("machinectl by rule contained", &no_bus, "--contain", &shell),
        ("systemd-run", deny, "--no-contain", &run),
        ("systemd-run by rule", &no_systemd, "--no-contain", &run),
    ];
    let mut script = "systemctl start systemd-logind.service systemd-machined.service\n".to_owned();
    for (name, command) in [
        ("su", &su),
        ("sudo", &sudo),
        ("machinectl", &shell),
        ("systemd-run", &run),
    ] {
        script += &format!("echo '[bare {name}]'; {command}\n");
    }
    let mut reports = std::collections::BTreeMap::new();
    for (name, policy, held, command) in guarded {
        let line = world.guard().policy(policy).arg("-q").arg(held).line();
        let at = line.iter().position(|word| word == "--report").unwrap();
        reports.insert(name, line[at + 1].clone());
        let line = line.join(" ");
        script += &format!("echo '[{name}]'; {line} {command} || true\n");
    }
    script += "echo '[end]'\n";
    let ended = world
        .boot(Cgroups::Unified, Bus::Answers, &script)
        .succeeds();
    for name in ["su", "sudo", "machinectl", "systemd-run"] {
        let bare = part(&ended, &format!("bare {name}"));
        assert!(bare.contains("hello from github"), "{name}: {ended:?}");
    }
    let report = |name: &str| -> Report {
        let text =
            std::fs::read(&reports[name]).unwrap_or_else(|e| panic!("{name}: {e}: {ended:?}"));
        serde_json::from_slice(&text).unwrap()
    };
    let contacts = |report: &Report, path: &str, verdict| {
        let mut all = report.delegates.iter();
        all.any(|one| one.path == path && one.verdict == verdict && one.subject.is_some())
    };
    let bus = "/run/dbus/system_bus_socket";
    for (name, held) in [
        ("su", Held::Loosely),
        ("sudo", Held::Loosely),
        ("su contained", Held::Contained),
    ] {
        let said = part(&ended, name);
        assert!(
            said.contains("session-") && said.contains("hello"),
            "{said}"
        );
        let report = report(name);
        let left = |it: &&blackstart_core::report::Finding| {
            it.kind == "left_cgroup" && !it.subjects.is_empty() && it.title.starts_with("curl ")
        };
        assert!(report.findings.iter().any(|it| left(&it)), "{report:#?}");
        assert!(
            report
                .coverage
                .gaps
                .iter()
                .any(|gap| gap.kind == "left_cgroup")
        );
        // And by whom.
        assert!(contacts(&report, bus, Verdict::Allow), "{report:#?}");
        login.worked_outside().is(Becomes::Recorded, held);
    }
    for (name, held) in [
        ("su by rule", Held::Loosely),
        ("su by rule contained", Held::Contained),
    ] {
        let said = part(&ended, name);
        assert!(
            said.ends_with("refused") && !said.contains("session-"),
            "{said}"
        );
        assert!(contacts(&report(name), bus, Verdict::Deny));
        kept.worked_outside().is(Becomes::Refused, held);
    }
    // Nobody has left: it is systemd that starts the shell, asked over the bus.
    for (name, held) in [
        ("machinectl", Held::Loosely),
        ("machinectl contained", Held::Contained),
    ] {
        assert!(part(&ended, name).contains("hello from github"), "{name}");
        assert!(contacts(&report(name), bus, Verdict::Allow), "{name}");
        shelled.worked_outside().is(Becomes::Recorded, held);
    }
    for (name, held) in [
        ("machinectl by rule", Held::Loosely),
        ("machinectl by rule contained", Held::Contained),
    ] {
        assert!(!part(&ended, name).contains("hello"), "{name}");
        assert!(contacts(&report(name), bus, Verdict::Deny), "{name}");
        kept_shell.worked_outside().is(Becomes::Refused, held);
    }
    assert!(part(&ended, "systemd-run").contains("hello from github"));
    let asked = report("systemd-run");
    let by = [bus, "/run/systemd/private"];
    assert!(
        by.iter().any(|path| contacts(&asked, path, Verdict::Allow)),
        "{:#?}",
        asked.delegates
    );
    ran.worked_outside().is(Becomes::Recorded, Held::Loosely);
    let said = part(&ended, "systemd-run by rule");
    assert!(!said.contains("hello"), "{said}");
    kept_from
        .worked_outside()
        .is(Becomes::Refused, Held::Loosely);
}
