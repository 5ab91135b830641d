//! One tracer for many guards tells each of them what one of its own would have told.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use blackstart_core::record::Snapshot;
use libbpf_rs::{MapCore as _, MapHandle};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::command::{ended, started};
use super::wire::{Wire, need_root};
use crate::{Orphan, Session, Tracer};

/// Run a shell in there to its end.
fn play(cgroup: BorrowedFd<'_>, script: &str) {
    ended(&started(cgroup, ["/bin/sh", "-c", script]));
}

/// What was recorded of processes: for each, its last argument, the one of who started it, and how it ended.
fn told(seen: &Snapshot) -> Vec<(String, String, Option<u32>)> {
    let last = |argv: &[String]| argv.last().cloned().unwrap_or_default();
    let by_id: BTreeMap<_, _> = seen.subjects.iter().map(|row| (row.id, row)).collect();
    let mut all: Vec<_> = seen
        .subjects
        .iter()
        .map(|row| {
            let from = by_id
                .get(&row.parent)
                .map_or_else(String::new, |row| last(&row.argv));
            (
                last(&row.argv),
                from,
                (row.ended_ns != 0).then_some(row.wait_status),
            )
        })
        .collect();
    all.sort();
    all
}

fn subjects_with(seen: &Snapshot, argument: &str) -> usize {
    let has = |argv: &[String]| argv.iter().any(|one| one == argument);
    seen.subjects.iter().filter(|row| has(&row.argv)).count()
}

/// Children, their children, a thread's worth of forks, a process that leaves and goes on elsewhere.
const STORY: &str = "/bin/true first; (/bin/false second; exec /bin/true third); \
    (echo 0 >\"$OUT\"; /bin/true fourth; exit 7); exec /bin/true fifth";

#[test]
fn each_guard_is_told_what_its_own_programs_would_have_told_it() {
    need_root();
    let story = |wire: &Wire| {
        let out = wire.path().parent().unwrap().join("cgroup.procs");
        play(wire.cgroup(), &STORY.replace("$OUT", out.to_str().unwrap()));
        let seen = wire.snapshot();
        (told(&seen), seen.leavers.len(), seen.counters.subjects_lost)
    };
    let alone = story(&Wire::traced(None));
    assert!(alone.1 > 0, "somebody left: {alone:?}");
    assert!(alone.0.iter().any(|row| row.0 == "fourth"), "{alone:?}");
    let tracer = Arc::new(Tracer::load().unwrap());
    let (one, other) = (Wire::traced(Some(&tracer)), Wire::traced(Some(&tracer)));
    assert_eq!(story(&one), alone);
    assert_eq!(told(&other.snapshot()), []);
    assert_eq!(story(&other), alone);
    // Those of before are still in the record.
    assert_eq!(story(&one).1, 2 * alone.1);
}

#[test]
fn who_knows_a_process_that_lives_with_another_guard_hears_of_it() {
    need_root();
    let tracer = Arc::new(Tracer::load().unwrap());
    let (one, other) = (Wire::traced(Some(&tracer)), Wire::traced(Some(&tracer)));
    let to = other.path().join("cgroup.procs");
    play(
        one.cgroup(),
        &format!(
            "echo $$ >{}; /bin/true there; exec /bin/true last",
            to.display()
        ),
    );
    let (left, came) = (one.snapshot(), other.snapshot());
    assert!(!left.leavers.is_empty());
    for seen in [&left, &came] {
        assert_eq!(subjects_with(seen, "there"), 1, "{:?}", told(seen));
        assert_eq!(subjects_with(seen, "last"), 1, "{:?}", told(seen));
        assert!(
            seen.subjects.iter().all(|row| row.ended_ns != 0),
            "{:?}",
            told(seen)
        );
    }
}

#[test]
fn what_follows_processes_is_asked_what_was_left_out() {
    need_root();
    let each = |session: &Session| session.record.skipped.told();
    let mut alone = Wire::traced(None);
    let own = each(&alone.session);
    assert_eq!(own, [Some(0); 4], "fork, exec, exit and move");
    alone.session.detach().unwrap();
    assert_eq!(each(&alone.session), []);
    assert_eq!(alone.snapshot().counters.hooks_skipped, 0);

    let mounted = tempfile::tempdir().unwrap();
    mount("bpf", mounted.path(), "bpf", MountFlags::empty(), None).unwrap();
    let pins = mounted.path().join("run");
    fs::create_dir(&pins).unwrap();
    let tracer = Arc::new(Tracer::load().unwrap());
    let mut wire = Wire::traced(Some(&tracer));
    let shared = each(&wire.session);
    assert!(shared.len() > own.len() && shared.iter().all(Option::is_some));
    wire.session.pin(&pins).unwrap();
    let features = wire.session.features();
    wire.session = Session::resume(&pins, &features, 0).unwrap();
    assert_eq!(each(&wire.session).len(), shared.len());
    Orphan::remove(&pins).unwrap();
    unmount(mounted.path(), UnmountFlags::empty()).unwrap();
}

#[test]
fn a_guard_that_moves_is_called_for_where_it_is() {
    need_root();
    let tracer = Arc::new(Tracer::load().unwrap());
    let (mut one, other) = (Wire::traced(Some(&tracer)), Wire::traced(None));
    // What it was attached by is loaded again.
    one.session.settle();
    one.session.move_to(other.cgroup()).unwrap();
    one.session.guard(other.cgroup()).unwrap();
    play(one.cgroup(), "exec /bin/true before");
    play(other.cgroup(), "exec /bin/true after");
    let seen = one.snapshot();
    assert_eq!(subjects_with(&seen, "before"), 0);
    assert_eq!(subjects_with(&seen, "after"), 1);
}

#[test]
fn who_has_left_is_called_no_more_and_its_number_is_free() {
    need_root();
    let tracer = Arc::new(Tracer::load().unwrap());
    let mut one = Wire::traced(Some(&tracer));
    let number = |wire: &Wire| wire.session.enrolled.as_ref().unwrap().number();
    assert_eq!(number(&one), 0);
    play(one.cgroup(), "exec /bin/true seen");
    one.session.detach().unwrap();
    play(one.cgroup(), "exec /bin/true unseen");
    let seen = one.snapshot();
    assert_eq!(subjects_with(&seen, "seen"), 1);
    assert_eq!(subjects_with(&seen, "unseen"), 0);
    let other = Wire::traced(Some(&tracer));
    assert_eq!(number(&other), 1, "its session is still there");
    drop(one);
    assert_eq!(number(&Wire::traced(Some(&tracer))), 0);
    play(other.cgroup(), "exec /bin/true other");
    assert_eq!(subjects_with(&other.snapshot(), "other"), 1);
}

#[test]
fn what_is_pinned_goes_on_without_its_tracer_until_it_is_removed() {
    need_root();
    let mounted = tempfile::tempdir().unwrap();
    mount("bpf", mounted.path(), "bpf", MountFlags::empty(), None).unwrap();
    let pins = mounted.path().join("run");
    fs::create_dir(&pins).unwrap();
    let tracer = Arc::new(Tracer::load().unwrap());
    let mut one = Wire::traced(Some(&tracer));
    one.session.pin(&pins).unwrap();
    let maps = &one.session.maps;
    let [subjects, processes] =
        [&maps.bs_subjects, &maps.bs_processes].map(|map| MapHandle::try_from(map).unwrap());
    let cgroup = one.cgroup().try_clone_to_owned().unwrap();
    let path = one.path().to_owned();
    // With this in it its directory stays.
    fs::create_dir(path.join("below")).unwrap();
    drop(one);
    let played = || {
        play(cgroup.as_fd(), "exec /bin/true");
        assert_eq!(
            processes.keys().count(),
            0,
            "who ends is known to have ended"
        );
        subjects.keys().count()
    };
    // The shell, and what it becomes.
    assert_eq!(played(), 2);
    assert_eq!(tracer.enrol().unwrap().number(), 1, "its number is taken");
    drop(tracer);
    assert_eq!(played(), 4);
    let layout = format!("v{}", crate::session::LAYOUT);
    let guards = MapHandle::from_pinned_path(pins.join(layout).join("tracer-0/bs_guards"));
    let guards = guards.unwrap();
    assert_eq!(guards.keys().count(), 1);
    Orphan::remove(&pins).unwrap();
    assert_eq!(guards.keys().count(), 0);
    assert_eq!(played(), 4);
    unmount(mounted.path(), UnmountFlags::empty()).unwrap();
    fs::remove_dir(path.join("below")).unwrap();
    fs::remove_dir(&path).unwrap();
}
