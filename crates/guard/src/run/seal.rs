//! What the command is denied from its first instruction on, besides destinations.

use blackstart_core::policy::{Effect, Policy};
use blackstart_core::report::Mode;
use blackstart_kernel::spawn::SocketFilter;
use blackstart_kernel::{Feature, Session};

use super::Setup;
use crate::plan::Need;
use crate::refusal::Refusal;

impl Setup<'_> {
    /// Is whatever no rule allows refused in deed? Only then is a kind of socket refused for what it is, and are
    /// privileges taken away: a run that observes, or goes by a deny-list, is not to notice its guard.
    pub(super) fn default_refuses(&self) -> bool {
        let refuses =
            |policy: &Policy| policy.default == Effect::Deny && policy.mode == Mode::Enforce;
        self.terms.enforcing() && self.policy.is_some_and(refuses)
    }

    /// Where the default refuses: no sockets that nothing could judge, unless they are accepted.
    pub(super) fn close_families(&mut self) -> Result<(), Refusal> {
        if !self.default_refuses() {
            return Ok(());
        }
        if self.terms.accepts(Need::Families) {
            if let Some(session) = &mut self.session {
                session.open_families();
            }
            return Ok(());
        }
        let sees_kinds = |session: &Session| session.has(Feature::SocketKinds);
        if !self.session.as_ref().is_some_and(sees_kinds) {
            let why = "raw, ping and SCTP sockets cannot be refused: no hook sees them being made";
            return self.terms.lack(Need::Families, why);
        }
        match SocketFilter::compile() {
            Ok(filter) => {
                self.filter = Some(filter);
                self.file.closed_families = true;
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::Families,
                format!("packet and vsock sockets cannot be refused: {error}"),
            ),
        }
    }
}
