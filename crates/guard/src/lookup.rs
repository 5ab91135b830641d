//! Judging what the forwarder asks, in the loop that owns the tables and the record.

use std::time::Instant;

use blackstart_core::record::Verdict;
use blackstart_core::report::rule_text;
use blackstart_core::tables::Tables;
use blackstart_kernel::{AnswerWanted, Asker, Session, Unread};

use crate::answer::message::refusal;
use crate::forward::{Ask, Question, Reply, Unjudged};
use crate::supervise::{Supervision, TURN};

impl Supervision<'_, '_> {
    /// Reply to what the forwarder asks, for one turn.
    pub(crate) fn hear_lookups(&mut self) {
        let Some(forwarder) = self.forwarder else {
            return;
        };
        forwarder.serve(Instant::now() + TURN, |ask| self.judge(ask));
    }

    fn judge(&mut self, ask: Ask) -> Reply {
        let (Some(session), Some(tables)) =
            (self.session.as_deref_mut(), self.judged.tables.as_ref())
        else {
            return Reply::Close;
        };
        match ask {
            Ask::Who(from) => match session.asker(from) {
                Ok(asker) => asker.map_or(Reply::Close, Reply::Asker),
                Err(error) => {
                    tracing::debug!(%error, "a lookup over TCP");
                    Reply::Close
                }
            },
            Ask::Lookup(asker, question) => self.judge_lookup(&asker, &question),
            Ask::Unjudged(why) => {
                let enforcing = session.unread(tables, Unread::Query);
                let refused = match why {
                    Unjudged::Unreadable => enforcing,
                    Unjudged::NoLookup => enforcing && tables.default_deny,
                };
                if refused { Reply::Deny } else { Reply::Pass }
            }
            Ask::Answer(asker, name, given) => {
                if !session.leases(tables, &asker, &name) {
                    return Reply::Pass;
                }
                let Some(given) = given else {
                    return stray(session, tables, Unread::Answer);
                };
                session.lease(
                    tables,
                    &asker,
                    &name,
                    &given.chain,
                    &given.addresses,
                    given.ttl,
                );
                Reply::Pass
            }
            Ask::Stray(what) => stray(session, tables, what),
        }
    }

    fn judge_lookup(&mut self, asker: &Asker, question: &Question) -> Reply {
        let (Some(session), Some(tables)) =
            (self.session.as_deref_mut(), self.judged.tables.as_ref())
        else {
            return Reply::Close;
        };
        let lookup = session.lookup(tables, asker, &question.name, question.qtype);
        let name = question.name.to_string();
        self.tell(asker.subject, asker.tgid, name, lookup.verdict, lookup.rule);
        if lookup.verdict != Verdict::Deny {
            return Reply::Pass;
        }
        if lookup.lost {
            return Reply::Lose;
        }
        let rule = rule_text(self.judged.policy.as_deref(), lookup.rule);
        let wanted = AnswerWanted {
            tgid: asker.tgid,
            id: question.id,
            flags: question.flags,
            question: question.sent.clone(),
            qtype: question.qtype,
            qclass: question.qclass,
            edns: question.edns,
            client: asker.from,
            server: asker.server,
        };
        refusal(&wanted, &rule).map_or(Reply::Deny, Reply::Refuse)
    }
}

fn stray(session: &mut Session, tables: &Tables, what: Unread) -> Reply {
    match (session.unread(tables, what), what) {
        (false, _) => Reply::Pass,
        (true, Unread::Unasked) => Reply::Lose,
        (true, Unread::Query | Unread::Answer) => Reply::Deny,
    }
}
