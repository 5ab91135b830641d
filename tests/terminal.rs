//! The terminal is the command's: keys, job control, exit codes.

use blackstart_lab::{Terminal, World, Zone, case};

/// A shell on a terminal, in the world; the guard's command line is `$G`, and `$C` with `--contain`.
fn shell(world: &World) -> Terminal {
    let line = world.guard().arg("-q").line().join(" ");
    let contained = world.guard().arg("-q").arg("--contain").line().join(" ");
    let mut command = world
        .host()
        .command(&["bash", "--norc", "--noprofile", "-i"]);
    command
        .env("BLACKSTART_STATE", world.guard().state())
        .env("G", line)
        .env("C", contained)
        .env("PS1", "shell> ")
        .env("HISTFILE", "/dev/null");
    let mut terminal = Terminal::start(&command);
    terminal.expect("shell> ");
    terminal
}

#[test]
fn ctrl_c_ends_the_command_and_not_the_shell() {
    for guard in GUARDED {
        let world = World::new("ctrl_c");
        world.dns(Zone::new());
        let mut terminal = shell(&world);
        let typed = |text: &str| text.replace("$G", guard);
        terminal.type_in(&typed("$G sh -c 'echo be''gun; sleep 100'\n"));
        terminal.expect("begun");
        terminal.press("\x03");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=130=");
        // One that handles it goes on.
        terminal.type_in(&typed("$G sh -c 'trap \"echo cau''ght; exit 5\" INT; echo be''gun; while :; do sleep 0.1; done'\n"));
        terminal.expect("begun");
        terminal.press("\x03");
        terminal.expect("caught");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=5=");
        terminal.type_in("exit 9\n");
        assert_eq!(terminal.wait(), 9);
        assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn ctrl_z_stops_the_job_and_fg_resumes_it() {
    for guard in GUARDED {
        let world = World::new("ctrl_z");
        world.dns(Zone::new());
        let mut terminal = shell(&world);
        let typed = |text: &str| text.replace("$G", guard);
        terminal.type_in(&typed(
            "$G sh -c 'echo be''gun; read line; echo re''ad $line; exit 4'\n",
        ));
        terminal.expect("begun");
        terminal.press("\x1a");
        terminal.expect("Stopped");
        terminal.expect("shell> ");
        terminal.type_in("jobs; fg\n");
        terminal.expect("Stopped");
        terminal.type_in("hello\n");
        terminal.expect("read hello");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=4=");
        terminal.type_in("exit\n");
        assert_eq!(terminal.wait(), 0);
    }
}

#[test]
fn an_interactive_shell_feels_as_without_the_guard() {
    for guard in GUARDED {
        let world = World::new("inner_shell");
        world.dns(Zone::new());
        let mut terminal = shell(&world);
        let typed = |text: &str| text.replace("$G", guard);
        terminal.type_in(&typed("PS1='in''ner> ' $G bash --norc --noprofile -i\n"));
        terminal.expect("inner> ");
        terminal.type_in("tty; test -t 0 && test -t 1 && echo is-a-ter''minal\n");
        terminal.expect("/dev/pts/");
        terminal.expect("is-a-terminal");
        // Job control of its own: no complaint, a job in the background, a stopped one.
        terminal.type_in("sleep 100 &\n");
        terminal.expect("[1]");
        terminal.type_in("sleep 200\n");
        terminal.press("\x1a");
        terminal.expect("Stopped");
        terminal.expect("inner> ");
        terminal.type_in("kill -9 %1 %2; wait; exit 6; exit 6\n");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=6=");
        assert!(
            !terminal.shown().contains("no job control"),
            "{}",
            terminal.shown()
        );
        terminal.type_in("exit\n");
        terminal.wait();
    }
}

#[test]
fn a_command_stopped_by_its_number_leaves_nobody_behind() {
    for guard in GUARDED {
        let world = World::new("stop_child");
        world.dns(Zone::new());
        let mut terminal = shell(&world);
        let typed = |text: &str| text.replace("$G", guard);
        terminal.type_in(&typed("$G sh -c '(sleep 0.5; kill -STOP $$; sleep 0.5; kill -CONT $$; echo wo''ken) & wait; exit 7'\n"));
        terminal.expect("woken");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=7=");
        assert!(
            !terminal.shown().contains("Stopped"),
            "{}",
            terminal.shown()
        );
        // Stopped as by the stop key, and continued or ended by its number.
        for (then, told) in [("CONT", "Exit 7"), ("KILL", "Exit 137")] {
            terminal.type_in(&typed(&format!(
                "$G sh -c '(sleep 0.5; kill -TSTP $$; sleep 1; kill -{then} $$) & wait; exit 7'\n"
            )));
            terminal.expect("Stopped");
            terminal.expect("shell> ");
            terminal.type_in("sleep 2.5\n");
            terminal.expect(told);
            terminal.expect("shell> ");
        }
        // A shell's `suspend` is for its own caller to see.
        terminal.type_in(&typed("PS1='in''ner> ' $G bash --norc --noprofile -i\n"));
        terminal.expect("inner> ");
        terminal.type_in("suspend\n");
        terminal.expect("Stopped");
        terminal.expect("shell> ");
        terminal.type_in("fg\n");
        terminal.type_in("echo still he''re\n");
        terminal.expect("still here");
        terminal.type_in("exit 6\n");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=6=");
        terminal.type_in("exit\n");
        terminal.wait();
    }
}

#[test]
fn a_command_in_a_pipeline_or_in_the_background_is_no_hindrance() {
    for guard in GUARDED {
        let world = World::new("pipeline");
        world.dns(Zone::new());
        let mut terminal = shell(&world);
        let typed = |text: &str| text.replace("$G", guard);
        terminal.type_in(&typed("echo abc | $G tr a-c x-z | cat\n"));
        terminal.expect("xyz");
        terminal.type_in(&typed("$G sleep 0.2 & wait; echo code=$?=\n"));
        terminal.expect("code=0=");
        terminal.type_in("exit\n");
        terminal.wait();
    }
}

/// Without the guard, and with it: what is expected of the one holds of the other.
const BARE_AND_GUARDED: [&str; 3] = ["", "$G ", "$C "];

/// The guard's command lines.
const GUARDED: [&str; 2] = ["$G", "$C"];

#[test]
fn a_full_screen_editor_has_the_whole_terminal() {
    let world = World::new("vim");
    world.dns(Zone::new());
    let mut terminal = shell(&world);
    terminal.type_in("stty rows 24 cols 80; stty -a >before\n");
    terminal.expect("shell> ");
    for guard in BARE_AND_GUARDED {
        world.file("notes", "first line\n");
        terminal.type_in(&format!("{guard}vim.tiny -u NONE -n notes\n"));
        terminal.expect("first line");
        // Keys one by one, and the modes of the terminal: Ctrl-Z gives the shell its own back.
        terminal.press("Osecond\x1b");
        terminal.press("\x1a");
        terminal.expect("Stopped");
        terminal.expect("shell> ");
        terminal.type_in("stty -a | cmp - before && echo as be''fore\n");
        terminal.expect("as before");
        terminal.expect("shell> ");
        terminal.type_in("fg\n");
        terminal.expect("first line");
        terminal.press("Gothird\x1b");
        terminal.press(":wq\n");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=; stty -a | cmp - before && cat notes\n");
        terminal.expect("code=0=");
        terminal.expect("second\r\nfirst line\r\nthird");
        terminal.expect("shell> ");
        // An editor's own exit code: `:cq` tells git to give up a commit.
        terminal.type_in(&format!("{guard}vim.tiny -u NONE -n notes\n"));
        terminal.expect("first line");
        terminal.press(":cq\n");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=1=");
        terminal.expect("shell> ");
    }
    terminal.type_in("exit\n");
    terminal.wait();
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn sudo_keeps_the_terminal_and_the_exit_code() {
    let world = World::new("sudo_terminal");
    world.dns(Zone::new());
    let mut terminal = shell(&world);
    for guard in BARE_AND_GUARDED {
        terminal.type_in(&format!("{guard}sudo -n true; echo code=$?=\n"));
        terminal.expect("code=0=");
        terminal.expect("shell> ");
        terminal.type_in(&format!(
            "{guard}sudo -n sh -c 'tty; test -t 0 && exit 7'; echo code=$?=\n"
        ));
        terminal.expect("/dev/pts/");
        terminal.expect("code=7=");
        terminal.expect("shell> ");
        terminal.type_in(&format!("{guard}sudo -n sh -c 'echo be''gun; sleep 100'\n"));
        terminal.expect("begun");
        terminal.press("\x03");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=130=");
        terminal.expect("shell> ");
        // Where sudo gives the command a terminal of its own, it passes keys and stops on.
        terminal.type_in(&format!(
            "{guard}sudo -n sh -c 'echo be''gun; read line; echo re''ad $line; exit 4'\n"
        ));
        terminal.expect("begun");
        terminal.press("\x1a");
        terminal.expect("Stopped");
        terminal.expect("shell> ");
        terminal.type_in("fg\n");
        terminal.press("hello\n");
        terminal.expect("read hello");
        terminal.expect("shell> ");
        terminal.type_in("echo code=$?=\n");
        terminal.expect("code=4=");
        terminal.expect("shell> ");
    }
    terminal.type_in("exit\n");
    terminal.wait();
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn another_user_by_sudo_is_still_of_the_run() {
    let shown = case!(39, "sudo");
    let world = World::new("sudo_user");
    let github = world.node("github");
    github.http();
    world.dns(Zone::new().host("github.com", &github));
    let fetch = [
        "sudo",
        "-n",
        "-u",
        "nobody",
        "curl",
        "-sS",
        "http://github.com/",
    ];
    shown.outside(&world.run(&fetch));
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .run(&fetch)
        .exits(6);
    shown.refused(&run);
    let chain = run.chain(run.lookups("github.com")[0].subject);
    assert!(
        chain[0].starts_with("curl ") && chain[1].starts_with("sudo -n"),
        "{chain:?}"
    );
    let left = run.findings("left_cgroup");
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}
