//! Unix sockets of daemons outside the run, on kernels with hooks for them and without.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use blackstart_core::report::Verdict;
use blackstart_lab::case;

use crate::guarded::{Ended, bare, left_behind, run, start};
use crate::stories::{LAB, Play, own_gaps};

const DENIED: &str = "/tmp/denied.sock";
const OTHER: &str = "/tmp/other.sock";
const LINK: &str = "/tmp/linked.sock";
/// A second mount of the denied one.
const MOUNTED: &str = "/tmp/mounted.sock";
/// Bound by a name that says nothing by itself.
const RELATIVE: &str = "/tmp/relative.sock";
const ABSTRACT: &str = "@denied";
const HIDE: &str = "--hide-sockets";

/// What listens there, and is forgotten with the story.
fn daemons() -> [UnixListener; 3] {
    for path in [DENIED, OTHER, LINK] {
        let _ = fs::remove_file(path);
    }
    std::os::unix::fs::symlink(DENIED, LINK).expect("make a link");
    let name = SocketAddr::from_abstract_name(&ABSTRACT[1..]).expect("a name");
    [
        UnixListener::bind(DENIED).expect("listen"),
        UnixListener::bind(OTHER).expect("listen"),
        UnixListener::bind_addr(&name).expect("listen"),
    ]
}

pub(crate) fn play(play: &mut Play, gaps: &BTreeSet<String>) {
    play.story("contacts with unix sockets are recorded", || contacts(gaps));
    play.story("a denied unix socket is out of reach", || denied(gaps));
    play.story("a unix socket that is made anew is no secret", || {
        made_anew(gaps);
    });
    play.story(
        "a denied unix socket is refused by every path",
        by_every_path,
    );
}

/// Does this kernel refuse a socket by its name? Those of amd64 do, told to by `lsm=`; on arm64 such programs came with 6.4.
pub(crate) fn refuses_by_name() -> bool {
    let told = run(&[], &deny(OTHER), &["true"]);
    let features = |ended: &Ended| ended.report().run.kernel.features.clone();
    let refuses = told.code == 0 && features(&told).iter().any(|one| one == "unix_names");
    assert!(refuses || cfg!(target_arch = "aarch64"), "{told}");
    refuses
}

/// A link, a mount, a name made anew, one without a path, and a rule about one process: by the socket that is reached.
fn by_every_path() {
    if !refuses_by_name() {
        println!("not refused by name on this kernel");
        return;
    }
    let shown = case!(
        42,
        "its daemon's denied socket by another path, where an LSM sees it"
    );
    let _daemons = daemons();
    let _ = fs::remove_file(RELATIVE);
    std::env::set_current_dir("/tmp").expect("work there");
    let _relative = UnixListener::bind("relative.sock").expect("listen");
    std::env::set_current_dir("/").expect("work there");
    fs::write(MOUNTED, "").expect("make a place for it");
    bare(&["mount", "--bind", DENIED, MOUNTED]).exits(0);
    for (denied, path) in [
        (DENIED, DENIED),
        (DENIED, LINK),
        (DENIED, MOUNTED),
        (RELATIVE, RELATIVE),
        (RELATIVE, "/tmp/../tmp/relative.sock"),
        (ABSTRACT, ABSTRACT),
    ] {
        bare(&reach(path)).exits(0).says("reached");
        let refused = run(&[], &deny(denied), &reach(path))
            .fails()
            .says("ConnectionRefused");
        assert_eq!(judged(&refused, denied), Verdict::Deny, "{path}");
        if denied == DENIED && path != denied {
            shown.worked_outside().refused(&refused);
        }
        let kinds = own_gaps(refused.report());
        assert!(
            !kinds.contains("unix_rules") && !kinds.contains("unix_aliases"),
            "{refused}"
        );
    }
    let others =
        format!("mode: enforce\nrules:\n  - {{ deny: \"unix:{DENIED}\", process: busybox }}\n");
    run(&[], &others, &reach(LINK)).exits(0).says("reached");
    let mine = others.replace("busybox", "blackstart-lab-vm");
    run(&[], &mine, &reach(LINK))
        .fails()
        .says("ConnectionRefused");
    // For the record alone it passes, and is found out afterwards.
    run(&["--mode", "observe"], &deny(DENIED), &reach(LINK))
        .exits(0)
        .says("reached");
    whoever_is_not_guarded();
    bare(&["umount", MOUNTED]).exits(0);
    assert_eq!(left_behind(), BTreeSet::new());
}

/// Others of the host reach it by every path, while a run may not.
fn whoever_is_not_guarded() {
    for file in ["/tmp/begun", "/tmp/anew"] {
        let _ = fs::remove_file(file);
    }
    let script = format!(
        "echo >/tmp/begun; until [ -e /tmp/anew ]; do sleep 0.05; done; exec {LAB} unix {LINK}"
    );
    let guard = start(&[], &deny(DENIED), &["sh", "-c", &script]);
    let began = Instant::now();
    while !Path::new("/tmp/begun").exists() {
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for path in [DENIED, LINK, MOUNTED] {
        bare(&reach(path)).exits(0).says("reached");
    }
    fs::write("/tmp/anew", "").expect("say so");
    guard.wait().fails().says("ConnectionRefused");
}

fn deny(path: &str) -> String {
    format!("mode: enforce\nrules:\n  - deny: \"unix:{path}\"\n")
}

/// The hooks came with 6.7.
fn has_hooks(gaps: &BTreeSet<String>) -> bool {
    !gaps.contains("unix_sockets")
}

/// What was said of a path, with the process.
#[track_caller]
fn judged(run: &Ended, path: &str) -> Verdict {
    let of_path = |one: &&blackstart_core::report::Delegate| one.path == path;
    let rows: Vec<_> = run.report().delegates.iter().filter(of_path).collect();
    let [row] = rows[..] else {
        panic!("one contact with {path}: {rows:?}: {run}");
    };
    assert_eq!(run.argv(row.subject)[..2], [LAB, "unix"], "{row:?}");
    row.verdict
}

fn reach(path: &str) -> [&str; 3] {
    [LAB, "unix", path]
}

fn contacts(gaps: &BTreeSet<String>) {
    let _daemons = daemons();
    for path in [DENIED, ABSTRACT] {
        bare(&reach(path)).exits(0).says("reached");
        let seen = run(&[], "", &reach(path)).exits(0);
        assert_eq!(judged(&seen, path), Verdict::Allow);
        let observed = run(&["--mode", "observe"], &deny(path), &reach(path)).exits(0);
        assert_eq!(judged(&observed, path), Verdict::WouldDeny);
        assert_eq!(own_gaps(observed.report()), *gaps, "{observed}");
    }
    let told = run(&[], "", &["true"]).exits(0);
    let features = &told.report().run.kernel.features;
    println!("contacts: {features:?}");
    let recorded = features.iter().any(|one| one.starts_with("unix_contact"));
    assert_eq!(recorded, !has_hooks(gaps), "{features:?}");
}

fn denied(gaps: &BTreeSet<String>) {
    let _daemons = daemons();
    let policy = deny(DENIED);
    if has_hooks(gaps) {
        let refused = run(&[], &policy, &reach(DENIED))
            .fails()
            .says("ConnectionRefused");
        assert_eq!(judged(&refused, DENIED), Verdict::Deny);
        run(&[], &deny(ABSTRACT), &reach(ABSTRACT))
            .fails()
            .says("ConnectionRefused");
    } else if refuses_by_name() {
        let refused = run(&[], &policy, &reach(DENIED))
            .fails()
            .says("ConnectionRefused");
        assert_eq!(judged(&refused, DENIED), Verdict::Deny);
        assert_eq!(own_gaps(refused.report()), *gaps, "{refused}");
    } else {
        for (policy, flags) in [(&policy, &[][..]), (&deny(ABSTRACT), &[HIDE][..])] {
            let refused = run(flags, policy, &["touch", "/tmp/it-ran"]).exits(125);
            assert!(!Path::new("/tmp/it-ran").exists(), "{refused}");
            for text in ["deny unix:", HIDE, "unix_rules"] {
                assert!(refused.stderr.contains(text), "{text}: {refused}");
            }
        }
        let open = run(&["--accept-gap", "unix_rules"], &policy, &reach(DENIED)).exits(0);
        assert_eq!(judged(&open, DENIED), Verdict::WouldDeny);
    }
    let hidden = run(&[HIDE], &policy, &reach(DENIED))
        .fails()
        .says("ConnectionRefused");
    assert_eq!(judged(&hidden, DENIED), Verdict::Deny);
    assert_eq!(own_gaps(hidden.report()), *gaps, "{hidden}");
    run(&[HIDE], &policy, &reach(LINK))
        .fails()
        .says("ConnectionRefused");
    let other = run(&[HIDE], &policy, &reach(OTHER))
        .exits(0)
        .says("reached");
    assert_eq!(judged(&other, OTHER), Verdict::Allow);
    // Root takes the cover off, unless it is contained.
    let uncover = format!("umount {DENIED}");
    run(&[HIDE], &policy, &["sh", "-c", &uncover]).exits(0);
    run(&[HIDE, "--contain"], &policy, &["sh", "-c", &uncover]).fails();
    // Nothing of it was seen here.
    bare(&reach(DENIED)).exits(0).says("reached");
    assert_eq!(left_behind(), BTreeSet::new());
}

/// The kernel takes a cover off with the name that it lies on.
fn made_anew(gaps: &BTreeSet<String>) {
    let daemons = daemons();
    for file in ["/tmp/begun", "/tmp/anew"] {
        let _ = fs::remove_file(file);
    }
    let script = format!(
        "echo >/tmp/begun; until [ -e /tmp/anew ]; do sleep 0.05; done; exec {LAB} unix {DENIED}"
    );
    let guard = start(&[HIDE], &deny(DENIED), &["sh", "-c", &script]);
    let began = Instant::now();
    while !Path::new("/tmp/begun").exists() {
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(daemons);
    fs::remove_file(DENIED).expect("a daemon takes its socket away");
    let _daemon = UnixListener::bind(DENIED).expect("and listens again");
    fs::write("/tmp/anew", "").expect("say so");
    let told = guard.wait();
    if has_hooks(gaps) || refuses_by_name() {
        assert_eq!(judged(&told.fails(), DENIED), Verdict::Deny);
        return;
    }
    let told = told.exits(0).says("reached");
    assert_eq!(judged(&told, DENIED), Verdict::WouldDeny);
    assert!(own_gaps(told.report()).contains("unix_rules"), "{told}");
}
