//! The life of a run without programs in the kernel: cgroup, command, leftovers, state, orphans.

use super::*;
use crate::cgroup::{Found, Whereabouts};
use crate::{AtEnd, Failed, Living, Swept, sweep};
use blackstart_core::report::{Parts, Report};
use blackstart_kernel::support::Support;
use std::path::Path;

mod contacts;
mod limits;

fn request(script: &str, state: &Path, leftover: Option<AtEnd>) -> Request {
    Request {
        command: ["sh", "-c", script].map(Into::into).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        service: Some("mysql".to_owned()),
        leftover,
        ..Request::bare(state)
    }
}

/// A run with a cgroup and a state directory, up to the command's start.
fn started<'a>(request: &'a Request, signals: &Signals) -> (Box<Setup<'a>>, Child) {
    let terms = Terms::new(false, &[]).unwrap();
    let mut setup = Setup::new(request, Mode::Observe, terms);
    let host = Support {
        systemd: Some(false),
        ..Support::for_run()
    };
    let _locked = setup.open_state().unwrap();
    setup.begin_dir().unwrap();
    setup.make_cgroup(&host).unwrap();
    setup.apply_limits().unwrap();
    let child = setup.start(signals).unwrap();
    (setup, child)
}

fn ended(script: &str, leftover: Option<AtEnd>) -> (Ended, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let request = request(script, state.path(), leftover);
    let signals = Signals::block().unwrap();
    let terminal = Terminal::open();
    let (setup, child) = started(&request, &signals);
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    let ended = setup.see_through(&child, &signals, &terminal, &mut |_| {});
    assert!(gone(&place));
    (ended, state)
}

fn gone(place: &Whereabouts) -> bool {
    matches!(RunCgroup::find(place).unwrap(), Found::Gone)
}

/// Does a process live, and not as a zombie?
fn lives(pid: u32) -> bool {
    crate::process::state_and_session(pid).is_some_and(|(state, _)| state != 'Z')
}

fn leftovers(report: &dyn Parts) -> usize {
    report
        .findings()
        .iter()
        .filter(|finding| finding.kind == "leftover")
        .count()
}

#[test]
fn the_exit_code_is_the_commands_and_only_the_report_stays() {
    crate::need_root();
    let (ended, state) = ended("exit 9", None);
    assert_eq!((ended.exit_code, ended.signal), (9, None));
    assert_eq!(ended.report.run().exit_code, Some(9));
    assert!(ended.report.run().usage.cpu_seconds.is_some());
    assert_eq!(leftovers(&ended.report), 0);
    let path = ended.record.unwrap();
    let kept: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept, ended.report.to_report());
    let mut files: Vec<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["report.json", "run.json"]);
    assert!(sweep(state.path()).unwrap().adopted.is_empty());
}

#[test]
fn a_signal_is_told_as_such() {
    crate::need_root();
    let (ended, ..) = ended("kill -KILL $$", None);
    assert_eq!((ended.exit_code, ended.signal), (137, Some(9)));
}

#[test]
fn leftovers_are_released_killed_or_waited_for() {
    crate::need_root();
    let pidfile = tempfile::NamedTempFile::new().unwrap();
    let script = |seconds| {
        format!(
            "setsid sleep {seconds} & echo $! >{}",
            pidfile.path().display()
        )
    };
    let pid = || {
        std::fs::read_to_string(pidfile.path())
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };

    let (released, ..) = ended(&script("30.1"), None);
    assert_eq!(leftovers(&released.report), 1, "{:?}", released.report);
    assert!(lives(pid()));
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", pid())).unwrap();
    assert!(!cgroup.contains(&released.report.run().id), "{cgroup}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid().cast_signed()).unwrap(),
        Signal::KILL,
    )
    .unwrap();

    let (killed, ..) = ended(&script("30.2"), Some(AtEnd::Kill));
    assert_eq!(leftovers(&killed.report), 1);
    assert!(!lives(pid()));

    let before = std::time::Instant::now();
    let (waited, ..) = ended(&script("0.5"), Some(AtEnd::Wait));
    assert!(before.elapsed() >= Duration::from_millis(400));
    assert_eq!(leftovers(&waited.report), 0);
}

/// What a sweep says of one run: that it cannot be cleaned up, and that nothing is known of it any more.
type Told = (Vec<Failed>, Vec<(PathBuf, String)>);

#[test]
fn what_is_left_of_a_run_whose_state_is_lost_is_told_and_removed_once_it_is_empty() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let request = request("exec sleep 30", state.path(), None);
    let signals = Signals::block().unwrap();
    let (setup, child) = started(&request, &signals);
    let dir = setup.dir.as_ref().unwrap().path().to_owned();
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    // Of other tests nothing is asked here.
    let of_it = |swept: Swept| {
        let failed = swept.failed.into_iter().filter(|it| it.path == dir);
        let lost = swept.lost.into_iter().filter(|(path, _)| *path == dir);
        (failed.collect::<Vec<_>>(), lost.collect::<Vec<_>>())
    };
    let nothing = (Vec::new(), Vec::new());
    let keeps = |swept: &Swept| swept.living.is_empty() && !gone(&place);

    // Whoever keeps state elsewhere takes nothing from it, neither while it is supervised nor afterwards.
    let swept = sweep(elsewhere.path()).unwrap();
    assert!(keeps(&swept), "{swept:?}");
    assert_eq!(of_it(swept), nothing);
    // Its state is lost under it: it goes on, and ends by itself.
    let aside = state.path().join("aside");
    std::fs::rename(&dir, &aside).unwrap();
    assert_eq!(of_it(sweep(elsewhere.path()).unwrap()), nothing);
    std::fs::rename(&aside, &dir).unwrap();
    drop(setup);
    assert_eq!(of_it(sweep(elsewhere.path()).unwrap()), nothing);

    std::fs::remove_dir_all(state.path().join("runs")).unwrap();
    // A child that another test is just starting holds a copy of the lock until it execs.
    let patiently = |is_it: &dyn Fn(&Told) -> bool| {
        for _ in 0..1000 {
            let found = of_it(sweep(elsewhere.path()).unwrap());
            if is_it(&found) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never told");
    };
    let (failed, lost) = patiently(&|(failed, _)| !failed.is_empty());
    assert!(lost.is_empty());
    assert_eq!(failed[0].service.as_deref(), Some("mysql"));
    let why = &failed[0].why;
    assert!(
        why.contains("its directory is gone") && why.contains("1 of its processes"),
        "{why}"
    );
    assert!(!gone(&place));

    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    rustix::process::waitid(
        rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(child.pid).unwrap()),
        rustix::process::WaitIdOptions::EXITED,
    )
    .unwrap();
    let (failed, lost) = patiently(&|(_, lost)| !lost.is_empty());
    assert!(failed.is_empty());
    assert_eq!(lost, [(dir.clone(), "its directory is gone".to_owned())]);
    assert!(gone(&place));
    assert_eq!(of_it(sweep(elsewhere.path()).unwrap()), nothing);
}

#[test]
fn what_says_nothing_of_itself_is_no_stray() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let id = uuid::Uuid::now_v7().to_string();
    let pins = crate::pins::create(&id, state.path()).unwrap();
    let mut cgroup = RunCgroup::create(&id, false, &[], &mut |_| Ok(())).unwrap();
    cgroup.inhabited();
    let place = cgroup.whereabouts().clone();
    drop(cgroup);
    sweep(state.path()).unwrap();
    assert!(pins.is_dir() && !gone(&place));
    let Found::Here(cgroup) = RunCgroup::find(&place).unwrap() else {
        panic!("it is gone");
    };
    cgroup.remove().unwrap();
    std::fs::remove_dir(&pins).unwrap();
    crate::pins::tidy(state.path());
}

#[test]
fn an_orphan_lives_until_its_processes_end_and_is_then_adopted() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = request("exec sleep 30", state.path(), None);
    let signals = Signals::block().unwrap();
    let (setup, child) = started(&request, &signals);
    let id = setup.file.id.clone();
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    assert!(
        sweep(state.path()).unwrap().living.is_empty(),
        "it is supervised"
    );
    // As a supervisor that was killed: everything is closed, and nothing is tidied.
    drop(setup);

    let swept = sweep(state.path()).unwrap();
    assert_eq!(
        swept.living,
        [Living {
            id: id.clone(),
            service: Some("mysql".to_owned())
        }]
    );
    // A second run of that service is refused, one beside it is not.
    let again = Setup::new(&request, Mode::Observe, Terms::new(false, &[]).unwrap());
    let mut nothing_told = |told| panic!("{told:?}");
    assert_eq!(
        again
            .refuse_beside_orphans(&swept, &mut nothing_told)
            .unwrap_err()
            .cause,
        Cause::Orphan
    );
    let beside = Request {
        concurrent: true,
        ..request.clone()
    };
    let beside = Setup::new(&beside, Mode::Observe, Terms::new(false, &[]).unwrap());
    beside
        .refuse_beside_orphans(&swept, &mut nothing_told)
        .unwrap();
    // Broken glass holds up nobody.
    let emergency = Request {
        break_glass: Some("the site is down".to_owned()),
        ..request.clone()
    };
    let emergency = Setup::new(&emergency, Mode::Observe, Terms::new(false, &[]).unwrap());
    let mut told = Vec::new();
    emergency
        .refuse_beside_orphans(&swept, &mut |notice| told.push(notice))
        .unwrap();
    assert!(
        matches!(&told[..], [Notice::Warning(text)] if text.contains(&id)),
        "{told:?}"
    );

    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    let exited = rustix::process::WaitIdOptions::EXITED;
    rustix::process::waitid(
        rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(child.pid).unwrap()),
        exited,
    )
    .unwrap();
    let swept = sweep(state.path()).unwrap();
    assert!(
        swept.failed.is_empty() && swept.living.is_empty(),
        "{swept:?}"
    );
    let report: Report =
        serde_json::from_slice(&std::fs::read(&swept.adopted[0]).unwrap()).unwrap();
    assert_eq!((report.run.id, report.run.exit_code), (id, None));
    assert!(
        report
            .coverage
            .gaps
            .iter()
            .any(|gap| gap.kind == "unsupervised"),
        "{:?}",
        report.coverage
    );
    assert!(gone(&place));
    assert!(sweep(state.path()).unwrap().adopted.is_empty());
}

#[test]
fn a_command_that_is_not_there_leaves_nothing() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let mut request = request("", state.path(), None);
    request.command = vec!["no-such-command".into()];
    let signals = Signals::block().unwrap();
    let mut setup = Setup::new(&request, Mode::Observe, Terms::new(false, &[]).unwrap());
    let locked = setup.open_state().unwrap();
    setup.begin_dir().unwrap();
    setup
        .make_cgroup(&Support {
            systemd: Some(false),
            ..Support::for_run()
        })
        .unwrap();
    drop(locked);
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    let refusal = setup.start(&signals).unwrap_err();
    assert_eq!((refusal.cause, refusal.exit_code()), (Cause::NotFound, 127));
    setup.undo();
    assert_eq!(
        std::fs::read_dir(state.path().join("runs"))
            .unwrap()
            .count(),
        0
    );
    assert!(gone(&place));
}

#[test]
fn an_orphan_that_cannot_be_looked_at_is_left_alone_until_the_next_boot() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = request("exec sleep 30", state.path(), None);
    let signals = Signals::block().unwrap();
    let (setup, child) = started(&request, &signals);
    let file = setup.file.clone();
    let place = file.cgroup.clone().unwrap();
    drop(setup);
    let path = state.path().join("runs").join(&file.id);
    // A child that another test is just starting holds a copy of the lock until it execs.
    fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let found = (0..1000).find_map(|_| {
            let found = look();
            if found.is_none() {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            found
        });
        found.expect("the lock is let go of")
    }
    let rewrite = |file: &RunFile| {
        let dir = soon(|| RunDir::adopt(&path).unwrap());
        dir.write_run(file).unwrap();
    };
    let swept = || {
        soon(|| {
            let swept = sweep(state.path()).unwrap();
            let any = !swept.adopted.is_empty() || !swept.failed.is_empty();
            any.then_some(swept)
        })
    };
    let moved = |namespace, root: &str| RunFile {
        cgroup: Some(Whereabouts {
            namespace,
            root: root.into(),
            ..place.clone()
        }),
        ..file.clone()
    };
    for elsewhere in [
        moved(place.namespace + 1, "/"),
        moved(place.namespace, "/../outside"),
    ] {
        rewrite(&elsewhere);
        let swept = swept();
        assert!(
            swept.adopted.is_empty() && swept.living.is_empty(),
            "{swept:?}"
        );
        assert_eq!(swept.failed.len(), 1, "{swept:?}");
        assert!(swept.failed[0].why.contains("left alone"), "{swept:?}");
        // It may live: the next run of its service does not begin beside it.
        let again = Setup::new(&request, Mode::Observe, Terms::new(false, &[]).unwrap());
        let refused = again.refuse_beside_orphans(&swept, &mut |_| {});
        assert_eq!(refused.unwrap_err().cause, Cause::Orphan);
    }
    rewrite(&RunFile {
        boot: "another".to_owned(),
        ..moved(place.namespace + 1, "/")
    });
    let swept = swept();
    assert_eq!(swept.adopted.len(), 1, "{swept:?}");

    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    let Found::Here(cgroup) = RunCgroup::find(&place).unwrap() else {
        panic!("not at {place:?}");
    };
    cgroup.remove().unwrap();
}

#[test]
fn a_cgroup_that_cannot_be_recorded_is_made_without_a_state_directory() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = request("true", state.path(), None);
    let host = Support {
        systemd: Some(false),
        ..Support::for_run()
    };
    for enforce in [false, true] {
        let terms = Terms::new(enforce, &[]).unwrap();
        let mut setup = Setup::new(&request, Mode::Observe, terms);
        let locked = setup.open_state().unwrap();
        setup.begin_dir().unwrap();
        // As a full disk does: the file is there from before, and cannot be written anew.
        let path = setup.dir.as_ref().unwrap().path().to_owned();
        std::fs::create_dir(path.join("run.new")).unwrap();
        let made = setup.make_cgroup(&host);
        assert!(setup.dir.is_none() && !path.exists());
        assert_eq!(setup.cgroup.is_some(), !enforce);
        match made {
            Ok(()) => assert_eq!(setup.terms.gaps()[0].kind, "state"),
            Err(refusal) => assert_eq!(refusal.cause, Cause::Unmet(Need::State)),
        }
        drop(locked);
        setup.undo();
    }
}

#[test]
fn a_cgroup_that_cannot_be_removed_keeps_its_run_unfinished() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = request("true", state.path(), None);
    let signals = Signals::block().unwrap();
    let terminal = Terminal::open();
    let (setup, child) = started(&request, &signals);
    // A mount point cannot be removed.
    let path = setup.cgroup.as_ref().unwrap().path();
    rustix::mount::mount_bind(&path, &path).unwrap();
    let ended = setup.see_through(&child, &signals, &terminal, &mut |_| {});
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
    let gaps = &ended.report.coverage().gaps;
    assert!(gaps.iter().any(|gap| gap.kind == "leftovers"), "{gaps:?}");

    let swept = sweep(state.path()).unwrap();
    assert_eq!(swept.adopted, [ended.record.unwrap()], "{swept:?}");
    assert!(!path.exists());
    assert!(sweep(state.path()).unwrap().adopted.is_empty());
}
