//! Real processes, in real cgroups where there are any.

use super::image::candidates;
use super::*;

fn start(
    argv: &[&str],
    env: &[(&str, &str)],
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, SpawnError> {
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let env: Vec<_> = env
        .iter()
        .map(|(k, v)| (OsString::from(k), OsString::from(v)))
        .collect();
    spawn(&Command {
        argv: &argv,
        env: &env,
        cgroup,
        joins: &[],
        filter: None,
        contain: None,
        hide: None,
        no_new_privileges: false,
        signals: SignalState::current().unwrap(),
    })
}

fn exit(child: &Child) -> i32 {
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .or(status.terminating_signal().map(|s| s + 128))
        .unwrap()
}

fn cgroup2() -> Option<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(Into::into)
}

#[test]
fn the_child_is_born_inside_its_cgroup() {
    assert!(rustix::process::geteuid().is_root(), "this needs root");
    let mount = cgroup2().expect("cgroup2 is mounted");
    let name = format!("blackstart-spawn-test-{}", std::process::id());
    let dir = mount.join(&name);
    std::fs::create_dir(&dir).unwrap();
    let fd = std::fs::File::open(&dir).unwrap();
    let out = std::env::temp_dir().join(&name);
    let script = format!("cat /proc/self/cgroup >{}", out.display());
    let child = start(
        &["sh", "-c", &script],
        &[("PATH", "/usr/bin:/bin")],
        Some(fd.as_fd()),
    );
    let code = child.map(|c| exit(&c));
    let seen = std::fs::read_to_string(&out).unwrap_or_default();
    std::fs::remove_dir(&dir).unwrap();
    let _ = std::fs::remove_file(&out);
    assert_eq!(code.unwrap(), 0);
    assert!(
        seen.lines()
            .any(|l| l.starts_with("0::") && l.ends_with(&name)),
        "{seen}"
    );
}

#[test]
fn the_child_joins_before_it_becomes_the_program_or_there_is_none() {
    let path = std::env::temp_dir().join(format!("blackstart-joins-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let argv = ["cat".into(), path.clone().into_os_string()];
    let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
    let into = |file: &std::fs::File| {
        let joins = [file.as_fd()];
        spawn(&Command {
            argv: &argv,
            env: &env,
            cgroup: None,
            joins: &joins,
            filter: None,
            contain: None,
            hide: None,
            no_new_privileges: false,
            signals: SignalState::current().unwrap(),
        })
    };
    let writable = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let joined = into(&writable).map(|child| exit(&child));
    let written = std::fs::read_to_string(&path).unwrap();
    // Not for writing: the kernel refuses, and so it is not started.
    let refused = into(&std::fs::File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!((joined.unwrap(), written.as_str()), (0, "0"));
    assert!(matches!(refused, Err(SpawnError::Join(_))), "{refused:?}");
}

#[test]
fn a_held_child_waits_for_its_word_and_ends_with_who_would_give_it() {
    let path = std::env::temp_dir().join(format!("blackstart-held-{}", std::process::id()));
    let argv = ["touch".into(), path.clone().into_os_string()];
    let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
    let held = || {
        spawn_held(&Command {
            argv: &argv,
            env: &env,
            cgroup: None,
            joins: &[],
            filter: None,
            contain: None,
            hide: None,
            no_new_privileges: true,
            signals: SignalState::current().unwrap(),
        })
        .unwrap()
    };
    let dropped = held();
    let pid = dropped.child().pid;
    drop(dropped);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!path.exists());
    let child = held().go().unwrap();
    assert_eq!(exit(&child), 0);
    std::fs::remove_file(&path).unwrap();
    // What it gives up is given up by then.
    let held = held();
    let status = std::fs::read_to_string(format!("/proc/{}/status", held.child().pid));
    assert!(status.unwrap().contains("NoNewPrivs:\t1\n"));
}

#[test]
fn a_missing_command_is_127_and_a_directory_126() {
    let missing = start(
        &["no-such-command-here"],
        &[("PATH", "/bin:/nonexistent:/etc/hostname")],
        None,
    )
    .unwrap_err();
    assert_eq!(missing.exit_code(), Some(127), "{missing:?}");
    let directory = start(&["/tmp"], &[], None).unwrap_err();
    assert_eq!(directory.exit_code(), Some(126), "{directory:?}");
    assert_eq!(start(&[""], &[], None).unwrap_err().exit_code(), Some(127));
    assert_eq!(start(&[], &[], None).unwrap_err().exit_code(), Some(127));
}

#[test]
fn a_file_without_permission_does_not_hide_a_later_one() {
    let dir = std::env::temp_dir().join(format!("blackstart-path-{}", std::process::id()));
    // Written by another process: what is open for writing, here or in a child that another test starts, nobody
    // can execute.
    let script =
        "mkdir -p a b; echo 'exit 7' | tee a/tool >b/tool; chmod 644 a/tool; chmod 755 b/tool";
    std::fs::create_dir_all(&dir).unwrap();
    let made = std::process::Command::new("sh")
        .args(["-ec", script])
        .current_dir(&dir)
        .status();
    assert!(made.unwrap().success());
    let both = format!("{0}/a:{0}/b", dir.display());
    let only_a = format!("{}/a", dir.display());
    // Without `#!`, so this also shows the hand-over to /bin/sh.
    let code = start(&["tool"], &[("PATH", &both)], None).map(|c| exit(&c));
    let denied = start(&["tool"], &[("PATH", &only_a)], None).unwrap_err();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(code.unwrap(), 7);
    assert_eq!(denied.exit_code(), Some(126));
}

#[test]
fn path_is_searched_as_execvp_does() {
    let texts = |program: &str, path: Option<&str>| -> Vec<String> {
        let found = candidates(OsStr::new(program), path.map(OsStr::new));
        found
            .into_iter()
            .map(|c| String::from_utf8(c).unwrap())
            .collect()
    };
    assert_eq!(texts("a/b", Some("/x")), ["a/b"]);
    assert_eq!(texts("b", Some("/x::/y")), ["/x/b", "./b", "/y/b"]);
    assert_eq!(texts("b", None), ["/bin/b", "/usr/bin/b"]);
}

#[test]
fn the_child_has_default_sigpipe_and_the_given_mask() {
    let child = start(
        &[
            "sh",
            "-c",
            "grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status || exit 3; kill -PIPE $$",
        ],
        &[("PATH", "/bin:/usr/bin")],
        None,
    );
    assert_eq!(exit(&child.unwrap()), 128 + libc::SIGPIPE);
}

#[test]
fn a_stopped_process_is_told_from_one_that_runs_or_is_gone() {
    let child = placeholder().unwrap();
    let stat = CString::new(format!("/proc/{}/stat", child.pid)).unwrap();
    assert!(!is_stopped(&stat));
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::STOP).unwrap();
    let options = WaitIdOptions::STOPPED;
    waitid(WaitId::PidFd(child.pidfd.as_fd()), options).unwrap();
    assert!(is_stopped(&stat));
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    exit(&child);
    assert!(!is_stopped(&stat));
}

#[test]
fn a_placeholder_lives_until_killed() {
    let child = placeholder().unwrap();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    assert!(
        waitid(WaitId::PidFd(child.pidfd.as_fd()), options)
            .unwrap()
            .is_none()
    );
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(exit(&child), 128 + libc::SIGKILL);
}
