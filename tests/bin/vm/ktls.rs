//! TLS in the kernel: what it encrypts is read before it does, or the story says that this kernel has none.

use blackstart_core::report::Verdict;
use blackstart_lab::case;

use crate::guarded::{Ended, bare, run};
use crate::servers::{MIRROR, QUIET};
use crate::stories::{POLICY, Play, own_gaps};

const KTLS: &str = "/bin/ktls";

pub(crate) fn play(play: &mut Play) {
    play.story("what the kernel encrypts hides no name in silence", ktls);
}

/// A client that has the kernel encrypt what it sends (TLS of TCP), before its hello and behind it.
fn ktls() {
    let shown = case!(
        28,
        "the name in TLS, where the kernel encrypts what comes behind it"
    );
    let policy = format!("inspect: [{QUIET}]\n{POLICY}");
    let (address, port) = (MIRROR.0.to_string(), QUIET.to_string());
    for way in ["ulp", "keys", "keys-file", "keys-hello", "hello-keys"] {
        let line = |name: &'static str| [KTLS, way, &address, &port, name].map(str::to_owned);
        let (denied, allowed) = (line("github.com"), line("mirror.internal"));
        let [denied, allowed] = [&denied, &allowed].map(|line| line.each_ref().map(String::as_str));
        let outside = bare(&denied);
        if outside.stdout.contains("no ULP") {
            shown.skipped("this kernel has no TLS, or its module is in another package");
            return;
        }
        outside.exits(0).says("said");
        let told = run(&[], &policy, &denied);
        let flows = told.flows(MIRROR.0, QUIET);
        let named = own_gaps(told.report());
        println!("ktls: {way}: {}; {named:?} {flows:?}", told.stdout.trim());
        // Kernels since 6.12.117, or a little earlier, take no keys for a socket that is still read: nothing leaves it then. Behind a
        // hello that was read, it no longer is.
        let takes_none = |ended: &Ended| {
            let said_first = way == "hello-keys";
            !said_first && ended.code != 0 && ended.stdout.contains("keys: Invalid argument")
        };
        if takes_none(&told) {
            let allowed = run(&[], &policy, &allowed);
            assert!(
                takes_none(&allowed),
                "{way}: the name alone decides: {allowed}"
            );
            continue;
        }
        let refused = told.code != 0
            && flows.iter().any(|flow| {
                flow.verdict == Verdict::Deny && flow.name.as_deref() == Some("github.com")
            });
        assert!(
            refused || named.iter().any(|gap| gap.starts_with("claims_")),
            "{way}: neither refused nor a gap: {told}"
        );
        if way == "hello-keys" {
            shown.worked_outside().refused(&told);
        }
        // The same for a name that nobody denies passes.
        let passed = run(&[], &policy, &allowed);
        println!(
            "ktls: {way}: {}; {:?}",
            passed.stdout.trim(),
            own_gaps(passed.report())
        );
        passed.exits(0).says("said");
    }
}
