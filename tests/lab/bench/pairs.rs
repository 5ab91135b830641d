//! Statistics of paired samples. Pure.

/// Fewer pairs prove nothing about a figure that varies.
pub(super) const ENOUGH: usize = 40;

/// How often the pairs are drawn anew for the bound.
const DRAWS: usize = 4000;

/// Pairs measured one after the other: guarded, bare.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs(pub(super) Vec<(f64, f64)>);

/// A median with what 95 of 100 repetitions would stay above, and below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

impl Pairs {
    /// What the guard adds.
    pub(super) fn difference(&self) -> Estimate {
        estimate(
            &self
                .0
                .iter()
                .map(|(guarded, bare)| guarded - bare)
                .collect::<Vec<_>>(),
        )
    }

    /// By what the guard multiplies.
    pub(super) fn ratio(&self) -> Estimate {
        estimate(
            &self
                .0
                .iter()
                .map(|(guarded, bare)| guarded / bare)
                .collect::<Vec<_>>(),
        )
    }

    /// The medians of both sides.
    pub(super) fn medians(&self) -> (f64, f64) {
        let side = |pick: fn(&(f64, f64)) -> f64| median(self.0.iter().map(pick).collect());
        (side(|pair| pair.0), side(|pair| pair.1))
    }
}

/// The median of the samples and its one-sided 95 % bounds, by bootstrap.
pub(super) fn estimate(samples: &[f64]) -> Estimate {
    let mut random = Random::new();
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            median(
                samples
                    .iter()
                    .map(|_| samples[random.below(samples.len())])
                    .collect(),
            )
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate {
        median: median(samples.to_vec()),
        lower: medians[DRAWS / 20],
        upper: medians[DRAWS - 1 - DRAWS / 20],
    }
}

pub(super) fn median(mut samples: Vec<f64>) -> f64 {
    assert!(!samples.is_empty(), "there is no median of nothing");
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 {
        samples[middle]
    } else {
        f64::midpoint(samples[middle - 1], samples[middle])
    }
}

/// Xorshift with a fixed seed: the same samples give the same bound, the same turns the same moments.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).expect("a length")).expect("less than a length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn a_bound_encloses_the_median_and_narrows_with_more_samples() {
        let samples = |n: u32| (0..n).map(|i| f64::from(i % 10)).collect::<Vec<_>>();
        let (few, many) = (estimate(&samples(20)), estimate(&samples(2000)));
        for found in [few, many] {
            assert!(
                found.lower <= found.median && found.median <= found.upper,
                "{found:?}"
            );
        }
        assert!(many.upper - many.lower < few.upper - few.lower);
        assert_eq!(estimate(&[7.0; 40]), estimate(&[7.0; 50]));
    }

    #[test]
    fn pairs_compare_the_guarded_with_the_bare() {
        let pairs = Pairs(vec![(12.0, 10.0), (11.0, 10.0), (13.0, 10.0)]);
        assert_eq!(pairs.difference().median, 2.0);
        assert_eq!(pairs.ratio().median, 1.2);
        assert_eq!(pairs.medians(), (12.0, 10.0));
    }
}
