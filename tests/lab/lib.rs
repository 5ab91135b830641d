//! The lab: small worlds made of network namespaces, with real servers and real clients, in which the
//! `blackstart` binary is driven as a user would drive it.
//!
//! A test builds a [`World`], puts servers on its [`Node`]s, and then runs commands on the world's
//! host, bare ([`World::run`]) or guarded ([`World::guard`]). Everything is taken down in reverse order
//! when the world is dropped, by a panic too; what a killed test run left is swept by the next one.
//!
//! Nothing in here is `unsafe`: namespaces are entered by a thread of its own, or by `nsenter`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod bench;
pub mod browser;
pub mod cases;
pub mod child;
pub mod client;
pub mod container;
pub mod coverage;
pub mod demo;
pub mod dns;
pub mod guard;
pub mod node;
pub mod program;
pub mod shown;
pub mod systemd;
pub mod terminal;
pub mod web;
pub mod workspace;
pub mod world;

pub use agent::Agent;
pub use browser::{Browser, Scheme};
pub use child::{Ended, Running};
pub use container::Podman;
pub use dns::{Dns, Zone};
pub use guard::{Guard, Guarded, Guarding};
pub use node::Node;
pub use shown::{Held, Outcome as Becomes};
pub use systemd::{Bus, Cgroups};
pub use terminal::Terminal;
pub use web::Web;
pub use world::World;
