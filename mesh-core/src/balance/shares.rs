//! How requests are divided among priorities and localities (Envoy's priority levels and locality weights).

/// How much of something is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) available: u32,
    pub(super) total: u32,
}

/// A whole.
pub(super) const ALL: u64 = 1_000_000;

impl Part {
    /// What it can carry, of [`ALL`]. `factor` in percent; without one, anything can carry everything.
    pub(super) fn capacity(self, factor: Option<u32>) -> u64 {
        match factor {
            _ if self.available == 0 => 0,
            None => ALL,
            Some(factor) => {
                let wanted = u128::from(factor) * u128::from(self.available) * u128::from(ALL / 100);
                let capacity = u64::try_from(wanted / u128::from(self.total.max(1))).unwrap_or(ALL);
                capacity.clamp(1, ALL)
            }
        }
    }

    /// Whether less than `percent` of it is available.
    pub(super) fn is_below(self, percent: u32) -> bool {
        u64::from(self.available) * 100 < u64::from(percent) * u64::from(self.total)
    }
}

/// What each priority gets, of [`ALL`], by what each can carry. All get nothing if none can carry anything.
pub(super) fn loads(capacities: &[u64]) -> Vec<u64> {
    let sum: u64 = capacities.iter().sum::<u64>().min(ALL);
    let mut left = ALL;
    let mut loads: Vec<u64> = capacities
        .iter()
        .map(|capacity| {
            let load = (capacity * ALL).checked_div(sum).unwrap_or(0).min(left);
            left -= load;
            load
        })
        .collect();
    // What rounding left over.
    if let Some(load) = loads.iter_mut().find(|load| **load > 0) {
        *load += left;
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(available: u32, total: u32) -> Part {
        Part { available, total }
    }

    /// Envoy's table for two and three levels with the factor 140.
    #[test]
    fn lb_03_priorities_take_what_they_can_carry() {
        let cases: [(&[u32], &[u64]); 8] = [
            (&[100, 100, 100], &[100, 0, 0]),
            (&[72, 72, 100], &[100, 0, 0]),
            (&[71, 71, 100], &[99, 1, 0]),
            (&[50, 50, 100], &[70, 30, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[0, 100, 0], &[0, 100, 0]),
            (&[0, 0, 0], &[0, 0, 0]),
        ];
        for (available, expected) in cases {
            let capacities: Vec<_> = available.iter().map(|percent| part(*percent, 100).capacity(Some(140))).collect();
            let loads: Vec<_> = loads(&capacities).iter().map(|load| (load + ALL / 200) / (ALL / 100)).collect();
            assert_eq!(loads, expected, "{available:?}");
        }
    }

    /// Where all together cannot carry everything, each gets more than it can carry in the same proportion.
    #[test]
    fn an_overload_is_shared() {
        let capacities = [part(1, 10).capacity(Some(140)), part(1, 5).capacity(Some(140))];
        assert_eq!(capacities, [140_000, 280_000]);
        assert_eq!(loads(&capacities), [333_334, 666_666]);
    }

    /// gRFC A56: the first that has anything gets everything.
    #[test]
    fn without_a_factor_the_first_available_takes_all() {
        let capacities = [part(0, 3), part(1, 100), part(9, 9)].map(|part| part.capacity(None));
        assert_eq!(loads(&capacities), [0, ALL, 0]);
    }

    #[test]
    fn a_part_below_a_share() {
        for (part, percent, expected) in [
            (part(4, 10), 50, true),
            (part(5, 10), 50, false),
            (part(0, 1), 0, false),
            (part(0, 1), 1, true),
            (part(0, 0), 100, false),
        ] {
            assert_eq!(part.is_below(percent), expected, "{part:?} {percent}");
        }
    }

    #[test]
    fn a_little_is_never_nothing() {
        assert_eq!(part(1, u32::MAX).capacity(Some(100)), 1);
        assert_eq!(part(u32::MAX, u32::MAX).capacity(Some(u32::MAX)), ALL);
    }
}
