//! Whose attempt it was: what the report says of a process is what was executed, whatever the process makes of it later.

use std::net::Ipv4Addr;

use blackstart_core::report::{Flow, Subject, Verdict};
use blackstart_lab::{Guarded, Node, World, Zone, case};

/// How much is kept of a command line, with the NUL behind each argument.
const KEPT: usize = 1024;

/// Connects to its first argument, and says nothing.
const CONNECT: &str = "import socket,sys; socket.create_connection((sys.argv[1], 7), 10).close()";

/// A machine that takes connections.
fn world(name: &str) -> (World, Node) {
    let world = World::new(name);
    let web = world.node("web");
    web.tcp_echo(7);
    web.http();
    world.dns(Zone::new());
    (world, web)
}

/// The processes behind the flows to this address, in the order of their start.
fn behind(run: &Guarded, address: Ipv4Addr) -> Vec<&Subject> {
    let subject = |flow: &&Flow| run.subject(flow.subject);
    let mut found: Vec<_> = run.flows(address).iter().map(subject).collect();
    found.sort_by_key(|subject| subject.id);
    found
}

/// The one process behind the attempts at this address.
#[track_caller]
fn the_one_behind(run: &Guarded, address: Ipv4Addr) -> &Subject {
    match behind(run, address)[..] {
        [subject] => subject,
        _ => panic!("one process expected: {:#?}", run.report()),
    }
}

fn laid_out(argv: &[String]) -> String {
    argv.iter().map(|word| format!("{word}\0")).collect()
}

#[test]
fn of_a_long_command_line_the_beginning_is_told_and_that_it_was_cut() {
    let shown = case!(50, "arguments of more than 4 KiB");
    let (world, web) = world("long_argv");
    let line = |more: usize| {
        let mut line = ["/usr/bin/python3", "-c", CONNECT, &web.v4().to_string()]
            .map(str::to_owned)
            .to_vec();
        // Words of which each is another, so that nothing can be moved unseen; the last one is of any length.
        let left = |line: &[String]| more - laid_out(line).len();
        while left(&line) > 40 {
            line.push(format!("word-{:04}", line.len()));
        }
        line.push("z".repeat(left(&line) - 1));
        assert_eq!(laid_out(&line).len(), more);
        line
    };
    for held in ["--no-contain", "--contain"] {
        for (length, cut) in [
            (KEPT, false),
            (KEPT + 1, true),
            (4 << 10, true),
            (5 << 10, true),
            (120 << 10, true),
        ] {
            let line = line(length);
            shown.outside(&world.run(&line));
            let run = world.guard().arg(held).run(&line).exits(0);
            let subject = the_one_behind(&run, web.v4());
            assert_eq!(subject.argv_truncated, cut, "{length}: {subject:?}");
            assert_eq!(subject.exe, "/usr/bin/python3");
            let whole = laid_out(&line);
            let kept = &whole[..length.min(KEPT)];
            // What ends with a whole word and what is cut right behind one are the same words.
            let told = laid_out(&subject.argv);
            let told = if cut && !kept.ends_with('\0') {
                told.trim_end_matches('\0')
            } else {
                &told
            };
            assert_eq!(told, kept, "{length}");
            if length > 4 << 10 {
                shown.recorded(&run);
            }
        }
    }
}

/// One long argument alone, as `sh -c` has them.
#[test]
fn one_long_argument_is_cut_within() {
    let shown = case!(50, "a script of more than 4 KiB as one argument");
    let (world, web) = world("long_word");
    let script = format!("exec 3<>/dev/tcp/{}/7; : {}", web.v4(), "x".repeat(6000));
    let line = ["bash", "-c", &script];
    shown.outside(&world.run(&line));
    let run = world.guard().run(&line).exits(0);
    let subject = the_one_behind(&run, web.v4());
    assert!(subject.argv_truncated, "{subject:?}");
    assert_eq!(subject.argv[..2], ["bash", "-c"]);
    assert_eq!(subject.argv[2], script[..KEPT - "bash\0-c\0".len()]);
    assert_eq!(subject.argv.len(), 3);
    shown.recorded(&run);
    // Who asks for a name has the same.
    let script = format!("getent hosts long.example; : {}", "y".repeat(6000));
    let run = world.guard().run(&["bash", "-c", &script]);
    let lookups = run.lookups("long.example");
    assert!(!lookups.is_empty());
    for lookup in lookups {
        let chain = run.chain(lookup.subject);
        assert_eq!(chain[0], "getent hosts long.example");
        assert!(chain[1].starts_with("bash -c getent hosts long.example; : yyy"));
        let parent = run.subject(run.subject(lookup.subject).parent);
        assert!(parent.argv_truncated, "{parent:?}");
    }
}

/// Gives itself another name and other arguments, in each way that there is, says what /proc tells of it then, connects, and has a
/// child that executes nothing connect too.
const REWRITES: &str = "
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
innocent = b'innocent\\0--harmless\\0'
# After the name of the program, which may hold spaces, come the fields from the third on.
fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
start, end = int(fields[48 - 3]), int(fields[49 - 3])
with open('/proc/self/mem', 'r+b', 0) as memory:
    memory.seek(start)
    memory.write(innocent + bytes(end - start - len(innocent)))
# linux/prctl.h: PR_SET_NAME.
assert libc.prctl(15, b'innocent', 0, 0, 0) == 0
print('comm', open('/proc/self/comm').read().strip())
print('argv', open('/proc/self/cmdline').read().rstrip('\\0').split('\\0'))
def reach():
    try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
    except OSError as error: return 1
    return 0
failed = reach()
child = os.fork()
if not child: os._exit(reach())
failed |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(failed)
";

#[test]
fn a_process_that_rewrites_its_arguments_is_told_as_it_was_executed() {
    let shown = case!(50, "arguments and a name that a process rewrites");
    let denied = case!(50, "arguments and a name that a process rewrites, refused");
    let (world, web) = world("rewritten");
    let script = world.file("deploy-tool", &format!("#!/usr/bin/python3\n{REWRITES}"));
    let script = script.display().to_string();
    let address = web.v4().to_string();
    let line = [&script, &address, "7"];
    let said = ["comm innocent\n", "argv ['innocent', '--harmless']\n"];
    let bare = world.run(&line).says(said[0]).says(said[1]);
    shown.outside(&bare);
    denied.outside(&bare);
    let wanted = ["/usr/bin/python3", &script, &address, "7"];
    for held in ["--no-contain", "--contain"] {
        let run = world.guard().arg(held).run(&line).exits(0);
        let run = run.says(said[0]).says(said[1]);
        let found = behind(&run, web.v4());
        assert_eq!(found.len(), 2, "itself and its child: {found:#?}");
        for subject in &found {
            assert_eq!(subject.argv, wanted);
            assert_eq!(subject.exe, script);
            assert!(!subject.argv_truncated);
        }
        assert_eq!(found[1].parent, Some(found[0].id));
        assert_ne!(found[1].pid, found[0].pid);
        shown.recorded(&run);
        // Nor is anybody told of the name that it took, or is a rule about programs misled by it.
        let policy =
            format!("mode: enforce\nrules:\n  - {{ deny: {address}, process: deploy-tool }}\n");
        let run = world.guard().policy(&policy).arg(held).run(&line).exits(1);
        let run = run.says(said[0]).warns("deploy-tool");
        assert!(!run.ended.stderr.contains("innocent"), "{run:?}");
        for flow in run.flows(web.v4()) {
            assert_eq!(flow.verdict, Verdict::Deny);
            assert_eq!(run.subject(flow.subject).argv, wanted);
        }
        denied.refused(&run);
        let policy =
            format!("mode: enforce\nrules:\n  - {{ deny: {address}, process: innocent }}\n");
        let run = world.guard().policy(&policy).arg(held).run(&line).exits(0);
        assert!(
            run.flows(web.v4())
                .iter()
                .all(|flow| flow.verdict == Verdict::Allow)
        );
    }
}

#[test]
fn a_program_whose_file_is_gone_is_told_by_where_it_was() {
    let shown = case!(50, "a program that is deleted while it runs");
    let replaced = case!(50, "a program that is replaced while it runs");
    let denied = case!(50, "a program that is deleted while it runs, refused");
    let (world, web) = world("deleted");
    let program = world.dir().join("fetcher").display().to_string();
    let run = |what: &str| {
        format!(
            "cp /usr/bin/bash {program}; {program} -c '{what}; readlink /proc/$$/exe; exec 3<>/dev/tcp/{}/7'",
            web.v4()
        )
    };
    let lines = [
        (&shown, run(&format!("rm {program}")), "fetcher (deleted)\n"),
        // As a package manager does it.
        (
            &replaced,
            run(&format!(
                "cp /usr/bin/true {program}.new; mv {program}.new {program}"
            )),
            "fetcher (deleted)\n",
        ),
    ];
    for (shown, script, said) in &lines {
        let line = ["bash", "-c", script];
        let bare = world.run(&line).says(said);
        shown.outside(&bare);
        denied.outside(&bare);
        for held in ["--no-contain", "--contain"] {
            let run = world.guard().arg(held).run(&line).exits(0).says(said);
            let subject = the_one_behind(&run, web.v4());
            assert_eq!(subject.exe, program);
            assert_eq!(subject.argv[..2], [program.as_str(), "-c"]);
            assert!(subject.argv[2].contains("readlink"), "{subject:?}");
            shown.recorded(&run);
            let policy = format!(
                "mode: enforce\nrules:\n  - {{ deny: {}, process: {program} }}\n",
                web.v4()
            );
            let run = world.guard().policy(&policy).arg(held).run(&line).exits(1);
            let run = run.says(said).warns("fetcher");
            let subject = the_one_behind(&run, web.v4());
            assert_eq!(subject.exe, program);
            assert_eq!(run.flow(web.v4(), 7).verdict, Verdict::Deny);
            denied.refused(&run);
        }
    }
}

/// What nobody may read in a report.
const SECRET: &str = "Tr0ub4dor-and-3";

#[test]
fn passwords_in_command_lines_are_in_nothing_that_is_told() {
    let shown = case!(50, "passwords in arguments");
    let denied = case!(50, "passwords in arguments, refused");
    let (world, web) = world("secrets");
    let reach = format!("#!/bin/bash\nexec 3<>/dev/tcp/{}/7\n", web.v4());
    let tools = "mysql deploy redis-cli sshpass docker psql ldapsearch";
    for tool in tools.split(' ') {
        world.file(&format!("bin/{tool}"), &reach);
    }
    let at = |tool: &str| world.dir().join("bin").join(tool).display().to_string();
    let url = format!("http://{}/", web.v4());
    // Each a command, of which the secret is to be masked and the rest is to stay.
    let lines = [
        (
            at("mysql"),
            format!("-uroot|-p{SECRET}|app"),
            "-uroot|-p***|app",
        ),
        (
            at("mysql"),
            format!("--user=root|--password={SECRET}"),
            "--user=root|--password=***",
        ),
        (
            at("deploy"),
            format!("--token|{SECRET}|--to|prod"),
            "--token|***|--to|prod",
        ),
        (
            at("deploy"),
            format!("DB_PASSWORD={SECRET}|A=b"),
            "DB_PASSWORD=***|A=b",
        ),
        (
            at("deploy"),
            format!("--set|api.secretKey={SECRET}"),
            "--set|api.secretKey=***",
        ),
        (
            at("redis-cli"),
            format!("-h|cache|-a|{SECRET}|ping"),
            "-h|cache|-a|***|ping",
        ),
        (
            at("sshpass"),
            format!("-p|{SECRET}|ssh|host"),
            "-p|***|ssh|host",
        ),
        (
            at("docker"),
            format!("login|-u|me|-p|{SECRET}|registry"),
            "login|-u|me|-p|***|registry",
        ),
        (
            at("ldapsearch"),
            format!("-D|cn=me|-w|{SECRET}"),
            "-D|cn=me|-w|***",
        ),
        (
            at("psql"),
            format!("postgresql://app:{SECRET}@db.internal:5432/app?sslmode=require"),
            "postgresql://***@db.internal:5432/app?sslmode=require",
        ),
        (
            "curl".to_owned(),
            format!("-sS|-u|me:{SECRET}|{url}"),
            "-sS|-u|me:***|URL",
        ),
        (
            "curl".to_owned(),
            format!("-sS|-H|Authorization: Bearer {SECRET}|{url}"),
            "-sS|-H|Authorization: ***|URL",
        ),
        (
            "curl".to_owned(),
            format!("-sS|{url}?access_token={SECRET}&x=1"),
            "-sS|URL?access_token=***&x=1",
        ),
        // A script in one argument; bash would go on as the command itself, if that were the last.
        (
            "bash".to_owned(),
            format!(
                "-c|export PGPASSWORD='{SECRET}'; exec 3<>/dev/tcp/{}/7; : end",
                web.v4()
            ),
            "-c|export PGPASSWORD='***'; exec 3<>/dev/tcp/ADDRESS/7; : end",
        ),
    ];
    let policy = format!("mode: enforce\nrules:\n  - deny: {}\n", web.v4());
    for (tool, arguments, told) in &lines {
        let told = told
            .replace("URL", &url)
            .replace("ADDRESS", &web.v4().to_string());
        let mut line = vec![tool.clone()];
        line.extend(arguments.split('|').map(str::to_owned));
        shown.outside(&world.run(&line));
        denied.worked_outside();
        let page = world.dir().join("page.html");
        let page_too = format!("--report={}", page.display());
        let look = |run: &Guarded| {
            let subject = the_one_behind(run, web.v4());
            let script = usize::from(tool.starts_with('/'));
            assert_eq!(subject.argv[script], *tool);
            assert_eq!(subject.argv[script + 1..].join("|"), told);
            let report = serde_json::to_string(run.report()).unwrap();
            let page = std::fs::read_to_string(&page).unwrap();
            let id = run.report().run.id.clone();
            let kept = world.guard().blackstart(&["runs", "show", &id]).succeeds();
            for (where_, text) in [
                ("report", &report),
                ("page", &page),
                ("stderr", &run.ended.stderr),
                ("history", &kept.stdout),
            ] {
                assert!(!text.contains(SECRET), "{where_} of {line:?}: {text}");
            }
            assert!(report.contains("***") && page.contains("***"));
        };
        let run = world.guard().arg(&page_too).run(&line).exits(0);
        look(&run);
        shown.recorded(&run);
        let run = world.guard().policy(&policy).arg(&page_too).run(&line);
        look(&run);
        let flows = run.flows(web.v4());
        assert!(flows.iter().all(|flow| flow.verdict == Verdict::Deny));
        denied.refused(&run);
    }
}

/// A process connects and is gone; another one that has its number connects, too. Nobody else may take that number in between, so it is
/// tried until it comes so. Prints the round that did, and the number.
const REUSE: &str = "
import os, sys
address = sys.argv[1]
def connect(word):
    os.execv('/bin/bash', ['bash', '-c', f'exec 3<>/dev/tcp/{address}/7; : {word}'])
for turn in range(50):
    first = os.fork()
    if not first: connect(f'first-{turn}')
    assert os.waitpid(first, 0)[1] == 0
    for _ in range(20):
        with open('/proc/sys/kernel/ns_last_pid', 'w') as last: last.write(str(first - 1))
        child = os.fork()
        if not child:
            if os.getpid() == first: connect(f'second-{turn}')
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        if child == first:
            print('again', turn, first)
            sys.exit(0)
sys.exit(1)
";

#[test]
fn two_processes_of_one_number_are_told_apart() {
    let shown = case!(50, "a process id that is given again");
    let denied = case!(50, "a process id that is given again, to who may not");
    // The number of a process within a namespace is not the kernel's own.
    let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
    if ours.to_str() != Some("pid:[4026531836]") {
        for case in [&shown, &denied] {
            case.skipped("this machine's processes are in a namespace of their own");
        }
        return;
    }
    let (world, web) = world("reused");
    let address = web.v4().to_string();
    let line = ["/usr/bin/python3", "-c", REUSE, &address];
    let bare = world.run(&line).says("again");
    shown.outside(&bare);
    denied.outside(&bare);
    let said = |run: &Guarded| {
        let mut words = run.ended.stdout.split_whitespace().skip(1);
        let turn = words.next().unwrap().to_owned();
        (turn, words.next().unwrap().parse::<u32>().unwrap())
    };
    let of = |run: &Guarded, word: &str| {
        let found = run.flows(web.v4()).into_iter().find(|flow| {
            let argv = &run.subject(flow.subject).argv;
            argv.last().is_some_and(|script| script.ends_with(word))
        });
        let flow = found
            .unwrap_or_else(|| panic!("{word}: {:#?}", run.report()))
            .clone();
        (run.subject(flow.subject).clone(), flow)
    };
    let run = world.guard().run(&line).exits(0).says("again");
    let (turn, number) = said(&run);
    let (first, second) = (
        of(&run, &format!("first-{turn}")),
        of(&run, &format!("second-{turn}")),
    );
    assert_eq!((first.0.pid, second.0.pid), (number, number));
    assert_ne!(first.0.id, second.0.id);
    assert!(first.0.ended.unwrap() <= second.0.started);
    assert_eq!((first.1.attempts, second.1.attempts), (1, 1));
    // Both come from the one that started them, and not the one from the other.
    assert_eq!(first.0.parent, second.0.parent);
    shown.recorded(&run);
    // What the first one's program may not, the second one's may, though it has its number; and the other way round.
    for (may_not, may) in [("first", "second"), ("second", "first")] {
        let script = REUSE.replace(
            "os.execv('/bin/bash', ['bash'",
            "os.execv(sys.argv[2] + word.split('-')[0], ['bash'",
        );
        // Who is refused ends with an error, which is no concern of who counts.
        let script = script.replace("[1] == 0\n    for", "[1] >= 0\n    for");
        let script = script.replace("[1] == 0\n        if", "[1] >= 0\n        if");
        for name in ["first", "second"] {
            blackstart_lab::program::copy("/usr/bin/bash", world.dir().join(name));
        }
        let dir = format!("{}/", world.dir().display());
        let line = ["/usr/bin/python3", "-c", &script, &address, &dir];
        let policy =
            format!("mode: enforce\nrules:\n  - {{ deny: {address}, process: {dir}{may_not} }}\n");
        let run = world
            .guard()
            .policy(&policy)
            .run(&line)
            .exits(0)
            .says("again");
        let (turn, number) = said(&run);
        let (refused, passed) = (
            of(&run, &format!("{may_not}-{turn}")),
            of(&run, &format!("{may}-{turn}")),
        );
        assert_eq!((refused.0.pid, passed.0.pid), (number, number));
        assert_eq!(
            (refused.1.verdict, passed.1.verdict),
            (Verdict::Deny, Verdict::Allow)
        );
        assert_eq!(refused.0.exe, format!("{dir}{may_not}"));
        assert_eq!(passed.0.exe, format!("{dir}{may}"));
        denied.refused(&run);
    }
}
