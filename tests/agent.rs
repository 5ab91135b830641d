//! The agent: guards for callers without root, who run their commands themselves.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_core::agent::{self as words, Order, Text, Word};
use blackstart_core::report::{Report, Verdict};
use blackstart_lab::agent::{CALLER, GROUP, as_user};
use blackstart_lab::{Agent, Terminal, World, Zone};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

const DENY_GITHUB: &str =
    "mode: enforce\nrules:\n  - deny: github.com\n    reason: served by this database\n";
const BOTH: &str = "curl -sS -m 10 http://github.com/; a=$?; curl -sS -m 10 http://mirror.internal/; echo \"codes $a $?\"";

fn world_with_names(name: &str) -> World {
    World::with_names(name).0
}

/// A guardrail of the host.
fn guardrail(world: &World, text: &str) {
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\n{text}");
    world.file("guardrails/10-host.yaml", &text);
    let beside = |path: &Path| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    };
    beside(&Agent::guardrails(world)).unwrap();
}

/// Wait for something that is about to be so.
#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: not yet");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The reports that the agent keeps.
fn kept(world: &World) -> Vec<Report> {
    let runs = world.guard().state().join("runs");
    let mut found: Vec<PathBuf> = fs::read_dir(runs)
        .unwrap()
        .flatten()
        .map(|run| run.path())
        .filter(|run| !run.join("lock").exists())
        .collect();
    found.sort();
    let reports = found
        .iter()
        .filter_map(|run| fs::read(run.join("report.json")).ok());
    reports
        .map(|text| serde_json::from_slice(&text).unwrap())
        .collect()
}

#[test]
fn a_caller_without_root_enforces_its_policy_and_gets_its_report() {
    let world = world_with_names("agent_enforces");
    let mut agent = Agent::start(&world, &[]);
    let run = agent
        .guard()
        .policy(DENY_GITHUB)
        .run(&["sh", "-c", BOTH])
        .exits(0)
        .says("hello from mirror")
        .says("codes 6 0\n")
        .warns("served by this database");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
    assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    let sh = &run.report().run.command;
    assert_eq!(sh[..2], ["sh", "-c"]);
    // The same without it goes through.
    let bare = world.run(&["sh", "-c", BOTH]);
    assert!(bare.stdout.contains("codes 0 0"), "{bare:?}");
    // It stands in the agent's history too, and nothing is left behind but guards for the next calls.
    soon("the report", || kept(&world).len() == 1);
    let kept = kept(&world);
    assert_eq!(kept[0].run.id, run.report().run.id);
    agent.running().signal(Signal::TERM);
    soon("the agent's end", || agent.running().try_wait().is_some());
    world.guard().blackstart(&["sweep"]).succeeds();
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn the_command_is_its_callers_own() {
    let world = World::new("agent_own");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &[]);
    world.file("here/x", "");
    let script = "id -u; id -G; pwd; echo \"$OWN\"; ulimit -n; umask; cat /proc/$$/loginuid >/dev/null; \
         grep -h Seccomp: /proc/self/status; test -w /proc/self/cgroup || echo fixed; \
         cat /proc/self/cgroup | grep -c blackstart; exit 7";
    let mut line = vec!["prlimit".to_owned(), "--nofile=123:123".to_owned()];
    line.extend(as_user(CALLER, &format!("{GROUP},77")));
    line.extend([
        "env".to_owned(),
        format!("--chdir={}/here", world.dir().display()),
        "OWN=mine".to_owned(),
    ]);
    let run = world
        .guard()
        .through(line)
        .arg(&format!("--agent={}", agent.socket().display()))
        .run(&["sh", "-c", script])
        .exits(7)
        .says(&format!("{CALLER}\n{CALLER} 77 {GROUP}\n"))
        .says("/here\nmine\n123\n");
    assert!(run.ended.stdout.contains("Seccomp:\t0"), "{:?}", run.ended);
    assert!(run.ended.stdout.ends_with("1\n"), "{:?}", run.ended);
    assert_eq!(run.report().run.exit_code, Some(7));
    // As it would end without an agent.
    agent.guard().run(&["no-such-command"]).exits(127);
    agent
        .guard()
        .run(&["sh", "-c", "kill -TERM $$"])
        .exits(128 + 15);
}

#[test]
fn whoever_is_not_in_the_group_is_refused() {
    let world = world_with_names("agent_group");
    let agent = Agent::start(&world, &[]);
    agent
        .guard_as(4009, "4009")
        .run(&["echo", "ran"])
        .exits(125)
        .warns("cannot be called");
    // Also where the socket itself is open to all: who calls is asked of the kernel.
    fs::set_permissions(
        agent.socket(),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let run = agent
        .guard_as(4009, "4009")
        .run(&["echo", "ran"])
        .exits(125)
        .warns("neither root nor in the permitted group");
    assert_eq!(run.ended.stdout, "");
    assert!(
        agent.says().contains("refused user 4009"),
        "{}",
        agent.says()
    );
    agent.guard().run(&["echo", "ran"]).exits(0).says("ran");
}

#[test]
fn a_guardrail_cannot_be_weakened() {
    let world = world_with_names("agent_guardrail");
    guardrail(&world, DENY_GITHUB);
    let agent = Agent::start(&world, &[]);
    let refused = |text: &str, flags: &[&str]| {
        let guard = agent.guard().policy(text);
        let guard = flags.iter().fold(guard, |guard, flag| guard.arg(flag));
        let run = guard.run(&["sh", "-c", BOTH]);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny, "{text}");
        run.says("codes 6 0\n");
    };
    refused("rules:\n  - allow: github.com\n", &[]);
    refused("mode: observe\n", &[]);
    let waiver =
        "waivers:\n  - for: github.com\n    owner: me\n    reason: mine\n    expires: 2099-12-31\n";
    refused(waiver, &[]);
    // Nor by what may be missing, nor by another catalog or state.
    let wrong = |flag: &str, why: &str| {
        agent
            .guard()
            .arg(flag)
            .run(&["echo", "ran"])
            .exits(125)
            .warns(why);
    };
    wrong("--mode=observe", "guardrail");
    wrong("--accept-gap=names", "guardrails enforce");
    wrong("--catalog=.", "--agent");
    wrong("--break-glass=now", "--agent");
    wrong("--down=github", "outages are played by root");
    let name = Agent::guardrails(&world).join("10-host.yaml");
    let own = world.file("own.yaml", "apiVersion: blackstart.dev/v1\nkind: Policy\n");
    let shadowing = Order {
        command: vec!["x".to_owned()],
        policy: vec![Text {
            name: name.display().to_string(),
            text: fs::read_to_string(own).unwrap(),
        }],
        ..Order::default()
    };
    let call = Call::to(&agent.socket());
    call.order(&shadowing);
    assert!(call.hears().contains("another file"));
}

#[test]
fn a_guardrail_that_denies_by_default_takes_ways_to_privileges_too() {
    let world = world_with_names("agent_default");
    guardrail(
        &world,
        "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
    );
    let agent = Agent::start(&world, &[]);
    let script = format!("{BOTH}; grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status");
    let run = agent
        .guard()
        .run(&["sh", "-c", &script])
        .exits(0)
        .says("codes 6 0\n");
    assert!(
        run.ended.stdout.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"),
        "{:?}",
        run.ended
    );
    assert!(
        run.report()
            .run
            .kernel
            .features
            .iter()
            .any(|it| it == "addresses")
    );
    agent
        .guard()
        .arg("--no-contain")
        .run(&["true"])
        .exits(125)
        .warns("deny by default");
}

#[test]
fn two_callers_at_once_each_have_their_own_policy() {
    let world = world_with_names("agent_two");
    let agent = Agent::start(&world, &["--spares=1"]);
    let script = format!("echo ready; until [ -e go ]; do sleep 0.01; done; {BOTH}");
    let mut one = agent
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", &script]);
    let mut two = agent
        .guard_as(4002, &GROUP.to_string())
        .policy("mode: enforce\nrules:\n  - deny: mirror.internal\n")
        .start(&["sh", "-c", &script]);
    one.running().wait_for("ready");
    two.running().wait_for("ready");
    world.file("go", "");
    one.wait().exits(0).says("codes 6 0\n");
    two.wait().exits(0).says("codes 0 6\n");
    // Put away after it was handed over.
    soon("two reports", || kept(&world).len() == 2);
}

#[test]
fn leftovers_go_where_their_caller_is_or_end() {
    let world = World::new("agent_leftover");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &[]);
    let daemon = "setsid sh -c 'echo $$ >pid; while [ ! -e stop ]; do sleep 0.05; done; cat /proc/self/cgroup | tail -1 >where' >/dev/null 2>&1 & until [ -s pid ]; do sleep 0.01; done; echo started";
    agent
        .guard()
        .run(&["sh", "-c", daemon])
        .exits(0)
        .says("started");
    // It is taken there after its caller has the report.
    let pid = fs::read_to_string(world.dir().join("pid")).unwrap();
    soon("the way home", || {
        let places = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
        !places.contains("blackstart")
    });
    world.file("stop", "");
    let place = || fs::read_to_string(world.dir().join("where")).unwrap_or_default();
    soon("the daemon's end", || place().ends_with('\n'));
    assert!(!place().contains("blackstart"), "{}", place());
    let run = agent
        .guard()
        .arg("--leftover=kill")
        .run(&["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])
        .exits(0);
    let pid: i32 = run.ended.stdout.trim().parse().unwrap();
    soon("the leftover's end", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
}

#[test]
fn keys_and_job_control_are_the_commands() {
    let world = World::new("agent_terminal");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &[]);
    let guard = agent.guard().arg("-q");
    let mut line = as_user(CALLER, &GROUP.to_string());
    line.extend(guard.line());
    let mut command = world
        .host()
        .command(&["bash", "--norc", "--noprofile", "-i"]);
    command
        .env("BLACKSTART_STATE", guard.state())
        .env("G", line.join(" "))
        .env("PS1", "shell> ")
        .env("HISTFILE", "/dev/null");
    let mut terminal = Terminal::start(&command);
    terminal.expect("shell> ");
    terminal.type_in("$G sh -c 'trap \"echo cau''ght; exit 5\" INT; echo be''gun; while :; do sleep 0.1; done'\n");
    terminal.expect("begun");
    terminal.press("\x03");
    terminal.expect("caught");
    terminal.expect("shell> ");
    terminal.type_in("echo code=$?=\n");
    terminal.expect("code=5=");
    terminal.type_in("$G sh -c 'echo be''gun; read line; echo re''ad $line; exit 4'\n");
    terminal.expect("begun");
    terminal.press("\x1a");
    terminal.expect("Stopped");
    terminal.expect("shell> ");
    terminal.type_in("fg\n");
    terminal.type_in("it\n");
    terminal.expect("read it");
    terminal.expect("shell> ");
    terminal.type_in("echo code=$?=\n");
    terminal.expect("code=4=");
    terminal.type_in("exit 9\n");
    assert_eq!(terminal.wait(), 9);
}

/// Goes on looking both names up until it is told to stop, and counts what came of it.
const LOOKER: &str = "echo ready; good=0; bad=0; leaks=0; until [ -e stop ]; do \
    getent hosts mirror.internal >/dev/null && good=$((good+1)) || bad=$((bad+1)); \
    timeout 2 getent hosts github.com >/dev/null && leaks=$((leaks+1)); \
    echo \"good=$good bad=$bad leaks=$leaks\" >counts.new; mv counts.new counts; done; echo done; exit 3";

fn counts_after(world: &World, more: u32) -> String {
    let read = || fs::read_to_string(world.dir().join("counts")).unwrap_or_default();
    let (mut last, mut seen) = (read(), 0);
    soon("more rounds", || {
        let now = read();
        if now != last {
            last.clone_from(&now);
            seen += 1;
        }
        seen >= more
    });
    last
}

#[test]
fn a_killed_agent_leaves_its_runs_guarded_and_the_next_one_has_their_reports() {
    let world = world_with_names("agent_killed");
    let mut agent = Agent::start(&world, &[]);
    let mut run = agent
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    counts_after(&world, 3);
    agent.kill();
    let counts = counts_after(&world, 5);
    assert!(
        counts.contains(" bad=0 leaks=0"),
        "lookups go on, denials hold: {counts}"
    );
    agent.again();
    assert!(
        agent.says().contains("left by an earlier agent"),
        "{}",
        agent.says()
    );
    let counts = counts_after(&world, 5);
    assert!(
        counts.contains(" bad=0 leaks=0"),
        "with the next agent: {counts}"
    );
    // Others are served meanwhile.
    agent.guard().run(&["echo", "ran"]).exits(0).says("ran");
    world.file("stop", "");
    let run = run.wait().exits(3).says("done");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert_eq!(run.report().run.exit_code, Some(3));
    assert!(run.report().coverage.unsupervised_seconds > 0.0);
    // Put away after it was handed over.
    soon("two reports", || kept(&world).len() == 2);
}

#[test]
fn a_run_whose_agent_ends_before_it_has_its_report_from_the_next_one() {
    let world = world_with_names("agent_later");
    let mut agent = Agent::start(&world, &[]);
    let script = format!("{BOTH}; echo ready; until [ -e stop ]; do sleep 0.05; done");
    let mut run = agent
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n    reaction: fail\n")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    agent.kill();
    world.file("stop", "");
    std::thread::sleep(Duration::from_millis(300));
    agent.again();
    let run = run.wait().exits(120).says("codes 6 0\n");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    // Somebody else does not get it.
    let call = Call::to(&agent.socket());
    let word = Word::Report {
        run: run.report().run.id.clone(),
        ended: words::End::default(),
    };
    call.says(&words::packet(&word).unwrap(), &[]);
    assert!(call.hears().contains("none of its caller's"));
}

/// Asks for denied names until somebody says that this was heard; then once more, in both ways.
const ASKER: &str = "echo ready; until [ -e go ]; do sleep 0.05; done; n=0; \
    until [ -e heard ]; do n=$((n+1)); dig +tries=1 +time=5 n$n.github.com >/dev/null; sleep 0.1; done; \
    for how in +notcp +tcp; do dig +tries=1 +time=5 $how github.com | grep -o 'status: [A-Z]*'; \
      dig +tries=1 +time=5 +short $how mirror.internal; done; \
    curl -sS http://mirror.internal/; until [ -e stop ]; do sleep 0.05; done; exit 3";

#[test]
fn a_run_that_the_next_agent_has_taken_up_is_supervised_again() {
    let world = world_with_names("agent_resumed");
    let mut agent = Agent::start(&world, &[]);
    let mut run = agent
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: .github.com\n")
        .start(&["sh", "-c", ASKER]);
    run.running().wait_for("ready");
    // More than once: what the next one takes up is left again.
    for _ in 0..2 {
        agent.kill();
        agent.again();
    }
    world.file("go", "");
    // Its caller hears what happens from the next agent.
    run.running().wait_for_warning(".github.com");
    world.file("heard", "");
    run.running().wait_for("hello from mirror");
    world.file("stop", "");
    let run = run.wait().exits(3);
    let says = &run.ended.stdout;
    // Both were told at once that there is no such name; the one in a datagram by an answer in the server's place.
    assert_eq!(says.matches("status: NXDOMAIN").count(), 2, "{says}");
    let report = run.report();
    assert_eq!(report.run.exit_code, Some(3));
    let queries = |name: &str| -> u64 {
        let rows = report.names.iter().filter(|row| row.name == name);
        rows.map(|row| row.queries).sum()
    };
    assert_eq!(queries("github.com"), 2);
    assert!(queries("mirror.internal") >= 2, "{:?}", report.names);
    assert!(!run.gaps().contains("dns_over_tcp"), "{:?}", run.gaps());
    let alone = report.coverage.unsupervised_seconds;
    assert!(alone > 0.0 && alone < 60.0, "{alone}");
    assert_eq!(
        report.coverage.attempts,
        report.coverage.recorded + report.coverage.lost
    );
}

/// A guarded command that tells the next agent that it has ended, which would end its guard.
const LIAR: &str = "import json, os, socket, sys, time\n\
    run = open('/proc/self/cgroup').read().strip().rsplit('/', 1)[1]\n\
    print('ready', flush=True)\n\
    while not os.path.exists('next'): time.sleep(0.02)\n\
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
    agent.connect(sys.argv[1])\n\
    ended = {'exit_code': 0, 'overtime': None, 'daemons': [], 'highest_pids': None}\n\
    agent.send(json.dumps({'version': 1, 'word': {'report': {'run': run, 'ended': ended}}}).encode())\n\
    print(agent.recv(65536).decode(), flush=True)\n";

#[test]
fn who_is_guarded_does_not_speak_for_its_run() {
    let world = world_with_names("agent_liar");
    let mut agent = Agent::start(&world, &[]);
    let liar = world.file("liar.py", LIAR);
    let script = format!(
        "/usr/bin/python3 {} {}; {BOTH}; exit 3",
        liar.display(),
        agent.socket().display()
    );
    let mut run = agent
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    agent.kill();
    agent.again();
    world.file("next", "");
    let run = run
        .wait()
        .exits(3)
        .says("who is guarded by a run speaks for none")
        .says("codes 6 0\n");
    assert_eq!(run.report().run.exit_code, Some(3));
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
}

#[test]
fn a_caller_that_is_killed_leaves_its_command_guarded_to_its_end() {
    let world = world_with_names("agent_caller");
    let agent = Agent::start(&world, &[]);
    let mut run = agent
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    counts_after(&world, 2);
    run.running().signal(Signal::KILL);
    run.wait();
    let counts = counts_after(&world, 5);
    assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
    world.file("stop", "");
    soon("the run's end", || kept(&world).len() == 1);
    let report = &kept(&world)[0];
    assert_eq!(report.run.exit_code, None);
    let denied = report.names.iter().filter(|name| name.name == "github.com");
    assert!(denied.into_iter().all(|name| name.verdict == Verdict::Deny));
}

/// A call by somebody who knows the words.
struct Call(OwnedFd);

impl Call {
    fn to(socket: &Path) -> Self {
        let made = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        connect(&made, &SocketAddrUnix::new(socket).unwrap()).unwrap();
        Self(made)
    }

    /// It may have been hung up on already.
    fn says(&self, octets: &[u8], with: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() {
            assert!(along.push(SendAncillaryMessage::ScmRights(with)));
        }
        let _ = sendmsg(
            &self.0,
            &[IoSlice::new(octets)],
            &mut along,
            SendFlags::NOSIGNAL,
        );
    }

    fn order(&self, order: &Order) {
        let file = sealed(&words::order(order).unwrap());
        self.says(&words::packet(&Word::Run {}).unwrap(), &[file.as_fd()]);
    }

    /// The next answer as text; empty once it was hung up on.
    fn hears(&self) -> String {
        let mut octets = vec![0; 1 << 17];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut octets)];
        let got = recvmsg(&self.0, &mut into, &mut along, RecvFlags::CMSG_CLOEXEC);
        let length = got.map_or(0, |got| got.bytes);
        String::from_utf8_lossy(&octets[..length]).into_owned()
    }
}

fn sealed(octets: &[u8]) -> OwnedFd {
    let file = memfd_create("order", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = fs::File::from(file);
    file.write_all(octets).unwrap();
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, all).unwrap();
    file.into()
}

fn plain_order() -> Order {
    Order {
        command: vec!["true".to_owned()],
        ..Order::default()
    }
}

#[test]
fn a_process_that_is_not_the_callers_child_is_refused() {
    let world = World::new("agent_child");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &[]);
    let offered = |descriptor: BorrowedFd<'_>| {
        let call = Call::to(&agent.socket());
        call.order(&plain_order());
        let ready = call.hears();
        assert!(ready.contains("Ready"), "{ready}");
        call.says(&words::packet(&Word::Child {}).unwrap(), &[descriptor]);
        call.hears()
    };
    let of = |pid: Pid| pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let own = rustix::process::getpid();
    for (whose, pid) in [
        ("itself", own),
        ("its parent", rustix::process::getppid().unwrap()),
        ("init", Pid::INIT),
    ] {
        let said = offered(of(pid).as_fd());
        assert!(said.contains("is no child of who asks"), "{whose}: {said}");
    }
    // Its child, and another user's process: what set-user-id programs are.
    let mut line = as_user(CALLER, &GROUP.to_string());
    line.extend(["sh", "-c", "echo ready; sleep 100"].map(str::to_owned));
    let mut other = world.start(&line);
    other.wait_for("ready");
    let said = offered(of(other.pid()).as_fd());
    assert!(said.contains("does not run as the user"), "{said}");
    // One that has ended, and what is no process at all.
    let ended = world.start(&["true"]);
    let held = of(ended.pid());
    ended.wait();
    assert!(offered(held.as_fd()).contains("is no descriptor of a process"));
    let file = fs::File::open("/dev/null").unwrap();
    assert!(offered(file.as_fd()).contains("is no descriptor of a process"));
    // None of them was moved.
    let place =
        fs::read_to_string(format!("/proc/{}/cgroup", other.pid().as_raw_nonzero())).unwrap();
    assert!(!place.contains("blackstart/"), "{place}");
    agent.guard().run(&["true"]).exits(0);
}

#[test]
fn hostile_requests_are_refused_and_end_nothing() {
    let world = World::new("agent_hostile");
    world.dns(Zone::new());
    let agent = Agent::start(&world, &["--spares=1"]);
    let run = words::packet(&Word::Run {}).unwrap();
    let zero = fs::File::open("/dev/zero").unwrap();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let open = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
    let bomb = sealed("[".repeat(1 << 20).as_bytes());
    let huge = sealed(&vec![b' '; words::MAX_ORDER + 1]);
    let own = rustix::process::getpid();
    let process = pidfd_open(own, PidfdFlags::empty()).unwrap();
    let cases: Vec<(&str, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
        ("nonsense", b"nonsense".to_vec(), vec![]),
        ("binary", (0..=255).collect(), vec![]),
        ("oversized", vec![b'{'; words::MAX_PACKET + 100], vec![]),
        ("deep", "[".repeat(60_000).into_bytes(), vec![]),
        ("another version", br#"{"version":99,"word":{"run":{}}}"#.to_vec(), vec![]),
        ("no order", run.clone(), vec![]),
        ("no file", run.clone(), vec![zero.as_fd()]),
        ("a pipe", run.clone(), vec![pipe.as_fd()]),
        ("unsealed", run.clone(), vec![open.as_fd()]),
        ("a process", run.clone(), vec![process.as_fd()]),
        ("a deep order", run.clone(), vec![bomb.as_fd()]),
        ("a huge order", run.clone(), vec![huge.as_fd()]),
        ("many descriptors", run.clone(), vec![zero.as_fd(); 8]),
        ("a child first", words::packet(&Word::Child {}).unwrap(), vec![process.as_fd()]),
        ("an end first", words::packet(&Word::Ended(words::End::default())).unwrap(), vec![]),
        ("a report of nobody's", br#"{"version":1,"word":{"report":{"run":"../../../../../../etc/passwd-aaaa","ended":{"exit_code":0,"overtime":null,"daemons":[],"highest_pids":null}}}}"#.to_vec(), vec![]),
    ];
    for (what, octets, with) in &cases {
        let call = Call::to(&agent.socket());
        call.says(octets, with);
        let said = call.hears();
        assert!(said.contains("Refused"), "{what}: {said:?}");
    }
    // Wrong policies and patterns are told, and no file is opened by a name in them.
    for (text, why) in [
        ("kind: Nonsense", "apiVersion"),
        (
            "apiVersion: blackstart.dev/v1\nkind: Policy\nrules: [{deny: 3}]\n",
            "deny",
        ),
        (&"&a [*a,*a]\n".repeat(1000), "policy"),
    ] {
        let call = Call::to(&agent.socket());
        call.order(&Order {
            policy: vec![Text {
                name: "/etc/shadow".to_owned(),
                text: text.to_owned(),
            }],
            ..plain_order()
        });
        let said = call.hears();
        assert!(said.contains("Refused") && said.contains(why), "{said}");
        assert!(!said.contains("root:"), "{said}");
    }
    // Whoever says nothing, and whoever hangs up in the middle, holds up nobody.
    let silent: Vec<Call> = (0..20).map(|_| Call::to(&agent.socket())).collect();
    let call = Call::to(&agent.socket());
    call.order(&plain_order());
    assert!(call.hears().contains("Ready"));
    drop(call);
    agent.guard().run(&["echo", "ran"]).exits(0).says("ran");
    drop(silent);
    assert!(agent.says().matches("refused user 0").count() >= cases.len());
}
