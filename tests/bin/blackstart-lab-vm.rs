//! What runs in the machines of the kernel matrix (`make vm`), beside the released binary: the servers,
//! the clients and the stories, in one static file, since such a machine has nothing but busybox.
//!
//! `blackstart-lab-vm stories enforces|refuses [GAP...]`: play them on this kernel, on which enforce does that and
//! reports carry these gaps. `blackstart-lab-vm storm-story [GAP...]`: the storm, on a kernel that was started with
//! `preempt=full`. `scripts/vm/init` calls it. The other commands are the clients that the stories run.
//!
//! There is no network: whole networks are routed to the loopback device, so that their addresses are
//! not this host's own.
#![forbid(unsafe_code)]

#[path = "vm/agents.rs"]
mod agents;
#[path = "vm/client.rs"]
mod client;
#[path = "vm/daemons.rs"]
mod daemons;
#[path = "vm/guarded.rs"]
mod guarded;
#[path = "vm/gust.rs"]
mod gust;
#[path = "vm/ktls.rs"]
mod ktls;
#[path = "vm/limits.rs"]
mod limits;
#[path = "vm/orphans.rs"]
mod orphans;
#[path = "vm/servers.rs"]
mod servers;
#[path = "vm/stories.rs"]
mod stories;
#[path = "vm/storm.rs"]
mod storm;
#[path = "vm/unix.rs"]
mod unix;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["lookup", name] => client::lookup(name),
        ["connect", host, port] => client::connect(host, port),
        ["claim", way, address, port, name] => client::claim(way, address, port, name),
        ["unix", path] => client::unix(path),
        ["sctp"] => client::sctp(),
        ["datagram", address, port] => client::datagram(address, port),
        ["storm", seconds] => gust::storm(seconds),
        ["gust", way, kind, number, seconds] => gust::gust(way, kind, number, seconds),
        ["breeze", number] => gust::breeze(number),
        ["storm-story", ref gaps @ ..] => storm::under_full_preemption(gaps),
        ["stories", "enforces", ref gaps @ ..] => {
            servers::start();
            stories::where_enforce_works(gaps)
        }
        ["stories", "refuses", ref gaps @ ..] => {
            servers::start();
            stories::where_enforce_refuses(gaps)
        }
        _ => {
            eprintln!("blackstart-lab-vm: {arguments:?} is not a command");
            ExitCode::from(2)
        }
    }
}
