//! The graph's answers, held against those of a checker that tries everything.

use std::collections::BTreeSet;

use blackstart_core::catalog::{Catalog, Phase, Place, read};
use blackstart_core::graph::impact::{Outcome, State, impact};
use blackstart_core::graph::loops::{LoopKind, loops};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, Import, Input, NodeId, build};
use proptest::prelude::*;

/// From, to, and for the deployment.
type Arc = (usize, usize, bool);

fn name(number: usize) -> String {
    // In the order of numbers for up to a thousand.
    format!("s{number:03}")
}

fn imports(arcs: &[Arc]) -> Vec<Import> {
    arcs.iter()
        .map(|&(from, to, deploy)| Import {
            from: name(from),
            to: name(to),
            phase: if deploy { Phase::Deploy } else { Phase::Run },
            format: "test".to_owned(),
            place: Place {
                file: "test".into(),
                line: 1,
                column: 1,
            },
        })
        .collect()
}

/// The services are numbered from 0; those without any need are there too.
fn graph(services: usize, arcs: &[Arc]) -> Graph {
    let text: String = (0..services)
        .map(|n| {
            format!(
                "---\napiVersion: blackstart.dev/v1\nkind: Service\nname: {}\n",
                name(n)
            )
        })
        .collect();
    let reading = read(&[("c.yaml", &text)]);
    assert!(!reading.partial);
    build(&Input {
        catalog: &reading.catalog,
        runs: &[],
        imports: &imports(arcs),
    })
}

fn ids(graph: &Graph, set: impl IntoIterator<Item = usize>) -> Vec<NodeId> {
    set.into_iter()
        .map(|number| graph.find(&name(number)).unwrap())
        .collect()
}

fn numbers(list: &[NodeId]) -> Vec<usize> {
    list.iter().map(|id| id.index()).collect()
}

/// The checker: a matrix of who needs whom, and nothing clever.
struct Checker {
    services: usize,
    needs: Vec<Vec<bool>>,
    reaches: Vec<Vec<bool>>,
}

impl Checker {
    fn new(services: usize, arcs: &[Arc]) -> Self {
        let mut needs = vec![vec![false; services]; services];
        for &(from, to, _) in arcs {
            needs[from][to] = true;
        }
        let mut reaches = needs.clone();
        for via in 0..services {
            for from in 0..services {
                for to in 0..services {
                    reaches[from][to] |= reaches[from][via] && reaches[via][to];
                }
            }
        }
        Self {
            services,
            needs,
            reaches,
        }
    }

    /// Every path without a node twice, the ends included.
    fn paths(&self, from: usize, to: usize) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        let mut open = vec![vec![from]];
        while let Some(path) = open.pop() {
            let at = path[path.len() - 1];
            if at == to {
                found.push(path);
                continue;
            }
            for next in 0..self.services {
                if self.needs[at][next] && !path.contains(&next) {
                    let mut longer = path.clone();
                    longer.push(next);
                    open.push(longer);
                }
            }
        }
        found
    }

    fn components(&self) -> Vec<Vec<usize>> {
        let mut found = BTreeSet::new();
        for a in 0..self.services {
            if self.reaches[a][a] {
                let together = (0..self.services)
                    .filter(|&b| a == b || (self.reaches[a][b] && self.reaches[b][a]));
                found.insert(together.collect::<Vec<_>>());
            }
        }
        found.into_iter().collect()
    }

    /// The longest way down; none if it does not end.
    fn level(&self, of: usize) -> Option<usize> {
        if self.reaches[of][of]
            || (0..self.services).any(|to| self.reaches[of][to] && self.reaches[to][to])
        {
            return None;
        }
        (0..self.services)
            .filter(|&to| self.needs[of][to])
            .map(|to| self.level(to).map(|level| level + 1))
            .try_fold(0, |most, level| Some(most.max(level?)))
    }

    /// The smallest number of needs without which a component has no circle, over all orders to start in.
    fn smallest_cut(component: &[usize], arcs: &BTreeSet<Arc>) -> usize {
        fn orders(
            rest: &[usize],
            begun: &mut Vec<usize>,
            price: &dyn Fn(&[usize]) -> usize,
        ) -> usize {
            if rest.is_empty() {
                return price(begun);
            }
            let mut least = usize::MAX;
            for (index, &next) in rest.iter().enumerate() {
                let mut others = rest.to_vec();
                others.remove(index);
                begun.push(next);
                least = least.min(orders(&others, begun, price));
                begun.pop();
            }
            least
        }
        let price = |order: &[usize]| {
            let place = |n: usize| order.iter().position(|&other| other == n);
            arcs.iter()
                .filter(|(from, to, _)| match (place(*from), place(*to)) {
                    (Some(from), Some(to)) => to >= from,
                    _ => false,
                })
                .count()
        };
        orders(component, &mut Vec::new(), &price)
    }
}

fn world(most: usize, arcs: usize) -> impl Strategy<Value = (usize, Vec<Arc>)> {
    (1..=most).prop_flat_map(move |services| {
        let arc = (0..services, 0..services, any::<bool>());
        (Just(services), prop::collection::vec(arc, 0..=arcs))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn small_graphs_are_answered_as_by_trying_everything(
        (services, arcs) in world(6, 14),
        protect in prop::collection::btree_set(0..6usize, 0..3),
    ) {
        let graph = graph(services, &arcs);
        let checker = Checker::new(services, &arcs);
        let distinct: BTreeSet<Arc> = arcs.iter().copied().collect();
        let recovery = Recovery::of(&graph);
        prop_assert_eq!(graph.needs().len(), distinct.len());

        // Components, levels, and what waits for a component.
        let components: Vec<_> = recovery.components().map(numbers).collect();
        prop_assert_eq!(&components, &checker.components());
        let mut levels: Vec<Vec<usize>> = Vec::new();
        let mut blocked = Vec::new();
        for service in 0..services {
            match checker.level(service) {
                Some(level) => {
                    levels.resize(levels.len().max(level + 1), Vec::new());
                    levels[level].push(service);
                }
                None if checker.reaches[service][service] => {}
                None => blocked.push(service),
            }
        }
        prop_assert_eq!(recovery.levels().iter().map(|l| numbers(l)).collect::<Vec<_>>(), levels);
        prop_assert_eq!(numbers(recovery.blocked()), blocked);

        // Loops, their kinds and their steps, without and with protected services.
        for protect in [BTreeSet::new(), protect.into_iter().filter(|p| *p < services).collect()] {
            let found = loops(&graph, &recovery, &ids(&graph, protect.iter().copied()));
            let mut wanted = Vec::new();
            for &(deploys, contacts, deploy) in &distinct {
                if !deploy {
                    continue;
                }
                let paths = checker.paths(contacts, deploys);
                let Some(shortest) = paths.iter().map(Vec::len).min() else { continue };
                let between = |path: &Vec<usize>| {
                    path.iter().any(|n| {
                        *n != deploys && *n != contacts && (protect.is_empty() || protect.contains(n))
                    })
                };
                wanted.push((deploys, contacts, paths.iter().all(between), shortest));
            }
            let told: Vec<_> = found
                .iter()
                .map(|l| (
                    l.deploys.index(),
                    l.contacts.index(),
                    l.kind == Some(LoopKind::Transient),
                    l.steps.len(),
                ))
                .collect();
            prop_assert_eq!(told, wanted);
            for l in &found {
                // A circle that begins with the deployment's need.
                prop_assert!(l.shortest);
                let steps: Vec<_> = l.steps.iter().map(|step| graph.need(*step)).collect();
                prop_assert_eq!((steps[0].from, steps[0].to, steps[0].phase), (l.deploys, l.contacts, Phase::Deploy));
                prop_assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
                prop_assert_eq!(steps[steps.len() - 1].to, l.deploys);
                prop_assert!(components[l.component].contains(&l.deploys.index()));
                prop_assert!(components[l.component].contains(&l.contacts.index()));
            }
        }

        // What is cut is enough, no more than is needed, and said to be so.
        let cuts = recovery.cuts(&graph);
        let mut all = Vec::new();
        for (cut, component) in cuts.iter().zip(&components) {
            prop_assert!(cut.smallest);
            prop_assert_eq!(cut.needs.len(), Checker::smallest_cut(component, &distinct));
            all.extend_from_slice(&cut.needs);
        }
        let after = Recovery::without(&graph, &all);
        prop_assert_eq!(after.components().len(), 0);
        prop_assert_eq!(after.levels().iter().map(Vec::len).sum::<usize>(), services);
    }

    #[test]
    fn an_outage_spreads_over_needs_to_run((services, arcs) in world(6, 12), down in 0..6usize) {
        let down = down % services;
        let graph = graph(services, &arcs);
        let running: Vec<Arc> = arcs.iter().copied().filter(|(.., deploy)| !deploy).collect();
        let checker = Checker::new(services, &running);
        let all = Checker::new(services, &arcs);
        let impact = impact(&graph, &ids(&graph, [down]));
        let states: Vec<_> = (0..services)
            .map(|service| match service {
                _ if service == down => State::Down,
                _ if checker.reaches[service][down] => State::Unknown,
                _ => State::Up,
            })
            .collect();
        for (id, outcome) in &impact.deploys {
            prop_assert_eq!(impact.state(*id), states[id.index()]);
            let touched = arcs.iter().any(|(from, to, deploy)| {
                *from == id.index() && *deploy && states[*to] != State::Up
            });
            let declared = arcs.iter().any(|(from, _, deploy)| *from == id.index() && *deploy);
            match outcome {
                Outcome::Works => prop_assert!(!touched && declared),
                Outcome::NeverSeen => prop_assert!(!declared),
                Outcome::Unknown(needs) => prop_assert!(touched && !needs.is_empty()),
                // Nothing was shown, and nothing is claimed.
                Outcome::Fails(_) => prop_assert!(false),
            }
        }
        // In the order, everything that a service needs and that is not up comes before it.
        let mut met = BTreeSet::new();
        for level in &impact.order {
            for id in level {
                prop_assert_ne!(impact.state(*id), State::Up);
                let waits = (0..services).filter(|&to| all.needs[id.index()][to] && states[to] != State::Up);
                for to in waits {
                    prop_assert!(met.contains(&to), "{to} before {id:?}");
                }
            }
            met.extend(numbers(level));
        }
        for component in &impact.stuck {
            prop_assert!(component.iter().all(|id| !met.contains(&id.index())));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Beyond what is solved exactly: enough is cut, nothing can be taken back, and "smallest" is true.
    #[test]
    fn large_components_get_a_small_cut(
        services in 17..40usize,
        more in prop::collection::vec((0..40usize, 0..40usize, any::<bool>()), 0..6),
    ) {
        let mut arcs: Vec<Arc> = (0..services).map(|n| (n, (n + 1) % services, false)).collect();
        arcs.extend(more.into_iter().filter(|(a, b, _)| *a < services && *b < services && a != b));
        let graph = graph(services, &arcs);
        let recovery = Recovery::of(&graph);
        let cuts = recovery.cuts(&graph);
        prop_assert_eq!(cuts.len(), 1);
        let cut = &cuts[0];
        let stuck = |needs: &[_]| Recovery::without(&graph, needs).components().len();
        prop_assert_eq!(stuck(&cut.needs), 0);
        for index in 0..cut.needs.len() {
            let mut fewer = cut.needs.clone();
            let back = graph.need(fewer.remove(index));
            // The need of the same two for the other phase has to come back with it.
            fewer.retain(|id| (graph.need(*id).from, graph.need(*id).to) != (back.from, back.to));
            prop_assert!(stuck(&fewer) > 0);
        }
        if cut.smallest && cut.needs.len() == 2 {
            let single = graph.needs().iter().all(|need| {
                let id = graph.find_need(need.from, need.to, need.phase).unwrap();
                stuck(&[id]) > 0
            });
            prop_assert!(single, "one need would do");
        }
        // A ring alone has one circle.
        if cut.needs.len() == 1 {
            prop_assert!(cut.smallest);
        }
    }

    /// Shortest is shortest in graphs in which a search from both ends has something to search.
    #[test]
    fn loops_are_shortest_in_larger_graphs(
        arcs in prop::collection::vec((0..60usize, 0..60usize, prop::bool::weighted(0.2)), 60..200),
        protect in prop::collection::btree_set(0..60usize, 0..6),
    ) {
        let graph = graph(60, &arcs);
        let recovery = Recovery::of(&graph);
        let checker = Checker::new(60, &arcs);
        let distance = |from: usize, to: usize, shut: &BTreeSet<usize>| {
            let mut far = vec![None; 60];
            far[from] = Some(0);
            for step in 1..=60 {
                for at in 0..60 {
                    let open = at == from || !shut.contains(&at);
                    if far[at] == Some(step - 1) && open {
                        for (needed, far) in checker.needs[at].iter().zip(&mut far) {
                            if *needed && far.is_none() {
                                *far = Some(step);
                            }
                        }
                    }
                }
            }
            far[to]
        };
        let none = BTreeSet::new();
        let protected = ids(&graph, protect.iter().copied());
        let found = loops(&graph, &recovery, &protected);
        let mut wanted = 0;
        for need in graph.needs().iter().filter(|n| n.phase == Phase::Deploy) {
            let (from, to) = (need.from.index(), need.to.index());
            let Some(far) = distance(to, from, &none) else { continue };
            let it = &found[wanted];
            wanted += 1;
            prop_assert_eq!((it.deploys, it.contacts), (need.from, need.to));
            prop_assert_eq!(it.steps.len(), far + 1);
            let transient = if protect.is_empty() {
                far > 1
            } else {
                distance(to, from, &protect).is_none()
            };
            prop_assert_eq!(it.kind == Some(LoopKind::Transient), transient);
        }
        prop_assert_eq!(wanted, found.len());
    }
}

#[test]
fn the_order_of_the_input_makes_no_difference() {
    let arcs: Vec<Arc> = (0..200)
        .map(|n| (n * 7 % 40, n * n % 40, n % 3 == 0))
        .collect();
    let mut reversed = arcs.clone();
    reversed.reverse();
    let empty = Catalog::default();
    let [a, b] = [arcs, reversed].map(|arcs| {
        let imports = imports(&arcs);
        let graph = build(&Input {
            catalog: &empty,
            runs: &[],
            imports: &imports,
        });
        let recovery = Recovery::of(&graph);
        let cuts = recovery.cuts(&graph);
        (loops(&graph, &recovery, &[]), recovery, cuts)
    });
    assert_eq!(a, b);
    assert!(!a.0.is_empty());
}
