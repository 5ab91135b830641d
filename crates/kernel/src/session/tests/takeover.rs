//! One policy takes over from another while attempts are made.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blackstart_core::policy;
use blackstart_core::record::Verdict;
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, Tables, compile};
use libbpf_rs::MapCore as _;
use libbpf_rs::skel::Skel as _;

use super::wire::{ALLOW_ALL, Wire};

/// How often each of the two takes over from the other.
const TURNS: u32 = 40;

fn compiled(mode: &str, rules: &str) -> (Tables, u32) {
    let text =
        format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: {mode}\nrules:\n{rules}");
    let policy = policy::alone(&text, "test.yaml").unwrap().policy;
    let tables = compile(&policy, &Facts::default()).unwrap();
    (tables, policy.rules.len() as u32)
}

/// Every attempt is judged by the rules and by the mode of the same policy: what is denied by the one that enforces is
/// refused, and what is denied by the one that observes passes.
#[test]
fn the_mode_takes_over_with_the_rules() {
    const RULE: &str = "  - deny: 192.0.2.0/24\n";
    let observing = compiled("observe", RULE);
    let enforcing = compiled("enforce", RULE);
    // In observe mode, though its rules would refuse: no attempt is made before another policy is there.
    let mut wire = Wire::observe("rules:\n  - deny: 192.0.2.0/24\n");
    let take_over = |wire: &mut Wire, (tables, rules): &(Tables, u32), mode| {
        wire.session.reload(tables, *rules, mode).unwrap();
    };
    take_over(&mut wire, &observing, Mode::Observe);

    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let socket = wire.unconnected(address);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) {
                let error = socket.connect((address, 443)).expect_err("no route");
                match error.raw_os_error() {
                    Some(libc::ECONNREFUSED) => refused += 1,
                    Some(libc::ENETUNREACH) => {}
                    _ => panic!("{error}"),
                }
            }
            refused
        });
        for _ in 0..TURNS {
            take_over(&mut wire, &enforcing, Mode::Enforce);
            take_over(&mut wire, &observing, Mode::Observe);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0, "nothing was tried under enforce");
    });

    // Rules are numbered through: 1 is the first policy's, and those that observe have the even numbers from there on.
    let mut judged = [0, 0];
    for flow in wire.snapshot().flows {
        let enforces = flow.rule % 2 == 1;
        let expected = if enforces {
            Verdict::Deny
        } else {
            Verdict::WouldDeny
        };
        assert_eq!(flow.verdict, expected, "rule {}", flow.rule);
        judged[usize::from(enforces)] += 1;
    }
    assert!(judged.iter().all(|&rules| rules > 0), "{judged:?}");
}

/// What is loaded later works on the same tables: each has to be known by its name.
#[test]
fn every_table_is_handed_on_to_later_programs() {
    let wire = Wire::observe(ALLOW_ALL);
    let skeleton = wire.session.skeleton.as_ref().unwrap();
    let mut handed = 0;
    for map in skeleton.object().maps() {
        let name = map.name().to_str().unwrap();
        // Constants, and what is of no kernel or another object.
        if name.contains(".rodata") || name.contains(".data") || name == "bs_homes" {
            continue;
        }
        assert!(wire.session.maps.find(name).is_some(), "{name}");
        handed += 1;
    }
    assert!(handed > 30, "{handed}");
}
