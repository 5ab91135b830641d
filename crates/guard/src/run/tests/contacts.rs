//! A run as on a kernel before 6.7, which has no hooks for unix sockets, whatever this one has.

use std::os::unix::net::UnixListener;

use blackstart_core::report::{PolicySource, Verdict};
use blackstart_core::{policy, report};
use blackstart_kernel::{Feature, Settings};

use super::*;
use crate::GivenPolicy;
use crate::plan::plan;
use crate::resolv::Resolving;

/// Reaches for each path, and says in its exit code which were reached.
const REACH: &str = "import socket, sys\ncode = 0\n\
    for n, path in enumerate(sys.argv[1:]):\n  \
      try: socket.socket(socket.AF_UNIX).connect(path); code |= 1 << n\n  \
      except ConnectionRefusedError: pass\n\
    sys.exit(code)\n";

/// Reach for these, under this policy, with `--hide-sockets`.
fn reached(rules: &str, paths: &[&str]) -> Result<Ended, Refusal> {
    let state = tempfile::tempdir().unwrap();
    let text =
        format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n{rules}");
    let command = [&["/usr/bin/python3", "-c", REACH], paths].concat();
    let mut request = request("", state.path(), None);
    request.command = command.into_iter().map(Into::into).collect();
    request.hide_sockets = true;
    request.policy = Some(GivenPolicy {
        policy: policy::alone(&text, "p.yaml").unwrap().policy,
        source: PolicySource::default(),
    });
    let signals = Signals::block().unwrap();
    let terminal = Terminal::open();
    let (mode, terms) = terms_of(&request)?;
    let mut setup = Setup::new(&request, mode, terms);
    let mut host = Support::for_run();
    host.systemd = Some(false);
    host.bpf.connect_unix = Some(false);
    let resolving = Resolving::read();
    let tables = setup.tables(&resolving)?;
    let wanted = plan(&host, tables.uses(), &mut setup.terms)?;
    assert!(wanted.contains(&Feature::Contacts));
    let _locked = setup.open_state()?;
    setup.hide_sockets(&tables, &wanted)?;
    setup.begin_dir()?;
    setup.make_cgroup(&host)?;
    setup.make_pins()?;
    let settings = Settings {
        tables: &tables,
        rules: 1,
        resolvers: &resolving.servers,
        own_addresses: &resolving.own,
        hosts: &[],
        forwarder: None,
        one_of_many: false,
        tracer: None,
    };
    setup.load(&host, &wanted, &settings)?;
    let session = setup.session.as_ref().unwrap();
    let ways = [Feature::Contacts, Feature::ContactCalls];
    let loaded = ways.into_iter().filter(|way| session.has(*way));
    assert_eq!(loaded.count(), 1, "one way or the other");
    setup.pin_and_prove()?;
    setup.raise()?;
    let child = setup.start(&signals)?;
    Ok(setup.see_through(&child, &signals, &terminal, &mut |_| {}))
}

fn verdicts(report: &report::Report, path: &str) -> Vec<Verdict> {
    let delegates = report.delegates.iter();
    delegates
        .filter(|one| one.path == path)
        .map(|one| one.verdict)
        .collect()
}

#[test]
fn a_denied_socket_is_hidden_and_all_contacts_are_in_the_report() {
    crate::need_root();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (denied, other, link) = (at("denied"), at("other"), at("link"));
    let _daemons = [&denied, &other].map(|path| UnixListener::bind(path).unwrap());
    std::os::unix::fs::symlink(&denied, &link).unwrap();
    let paths = [&*denied, &other, &link];

    let none = reached("  - { deny: \"unix:/nowhere\", mode: observe }\n", &paths).unwrap();
    assert_eq!(none.exit_code, 0b111, "they are there");
    let report = none.report.to_report();
    for path in paths {
        assert_eq!(verdicts(&report, path), [Verdict::Allow], "{path}");
    }

    let ended = reached(&format!("  - deny: unix:{denied}\n"), &paths).unwrap();
    assert_eq!(ended.exit_code, 0b010, "only the other one");
    let report = ended.report.to_report();
    assert_eq!(verdicts(&report, &denied), [Verdict::Deny]);
    assert_eq!(verdicts(&report, &other), [Verdict::Allow]);
    let kinds = || report.coverage.gaps.iter().map(|gap| gap.kind.as_str());
    assert!(kinds().any(|kind| kind == "unix_sockets"));
    for none in ["unix_rules", "pins", "self_probe"] {
        assert!(!kinds().any(|kind| kind == none), "{none}");
    }

    let absent = at("absent");
    let ended = reached(&format!("  - deny: unix:{absent}\n"), &[&other]).unwrap();
    assert_eq!(ended.exit_code, 1);
    let report = ended.report.to_report();
    assert!(
        report
            .coverage
            .gaps
            .iter()
            .any(|gap| gap.kind == "unix_rules")
    );

    let refusal = reached("  - deny: \"unix:@name\"\n", &[&other]).unwrap_err();
    assert!(refusal.why.contains("abstract"), "{refusal}");
}
