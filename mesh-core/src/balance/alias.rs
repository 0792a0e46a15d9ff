use rand::Rng;

/// Draws an index by weight in constant time (Vose's alias method): a cell at random, then its first or its second
/// index.
///
/// 8 bytes a weight. Building takes one step a weight.
#[derive(Debug)]
pub(crate) struct Alias {
    cells: Box<[Cell]>,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// Below this of 2^32 it is the cell's own index.
    own: u32,
    /// Otherwise this one.
    other: u32,
}

impl Alias {
    /// A table of these weights; one of 0 is never drawn. `None` if there is no other.
    ///
    /// A share is exact to 2^-32 of a cell.
    pub(crate) fn new(weights: &[u64]) -> Option<Self> {
        let sum: u128 = weights.iter().copied().map(u128::from).sum();
        if sum == 0 {
            return None;
        }
        // In units in which a cell holds `sum`, so that nothing is rounded while weights are moved.
        let count = weights.len() as u128;
        let mut left: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * count).collect();
        let indices = 0..weights.len() as u32;
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = indices.clone().partition(|i| left[*i as usize] < sum);
        // A full cell has itself for the other.
        let mut cells: Vec<Cell> = indices.map(|index| Cell { own: u32::MAX, other: index }).collect();
        while let Some((low, high)) = small.pop().zip(large.last().copied()) {
            let own = left[low as usize];
            cells[low as usize] = Cell { own: share(own, sum), other: high };
            left[high as usize] -= sum - own;
            if left[high as usize] < sum {
                large.pop();
                small.push(high);
            }
        }
        Some(Self { cells: cells.into() })
    }

    /// An index, as often as its weight says.
    pub(crate) fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> u32 {
        let random = rng.next_u64();
        let index = (((random >> 32) * self.cells.len() as u64) >> 32) as u32;
        let cell = self.cells[index as usize];
        if (random as u32) < cell.own { index } else { cell.other }
    }
}

/// `part` of `sum`, which is less than all of it, in 2^32nds.
fn share(part: u128, sum: u128) -> u32 {
    // Both have at most 96 bits, as there are less than 2^32 weights: they are cut to 64 bits before they are scaled.
    let shift = 64_u32.saturating_sub(sum.leading_zeros());
    (((part >> shift) << 32) / (sum >> shift)).min(u128::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// What each index gets of all cells, of 1.
    fn shares(alias: &Alias) -> Vec<f64> {
        let mut shares = vec![0.0; alias.cells.len()];
        for (index, cell) in alias.cells.iter().enumerate() {
            let own = f64::from(cell.own) / 2.0_f64.powi(32) / shares.len() as f64;
            let all = 1.0 / shares.len() as f64;
            shares[index] += own;
            shares[cell.other as usize] += all - own;
        }
        shares
    }

    #[test]
    fn draws_follow_the_weights() {
        let cases: [&[u64]; 5] = [&[5], &[1, 1, 1], &[1, 2, 4], &[0, 7, 0, 1], &[1_000_000, 1, 0, 3]];
        for weights in cases {
            let (alias, mut rng) = (Alias::new(weights).unwrap(), StdRng::seed_from_u64(58));
            let mut counts = vec![0_u32; weights.len()];
            (0..70_000).for_each(|_| counts[alias.draw(&mut rng) as usize] += 1);
            let sum: u64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let p = *weight as f64 / sum as f64;
                let sigma = (70_000.0 * p * (1.0 - p)).sqrt();
                assert!((f64::from(*count) - 70_000.0 * p).abs() <= 5.0 * sigma, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn without_a_weight_there_is_nobody_to_draw() {
        assert!(Alias::new(&[]).is_none());
        assert!(Alias::new(&[0, 0]).is_none());
    }

    proptest! {
        #[test]
        fn shares_are_those_of_the_weights(weights in prop::collection::vec(prop_oneof![Just(0), 0..10_u64, any::<u64>()], 1..50)) {
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            let Some(alias) = Alias::new(&weights) else {
                prop_assert_eq!(sum, 0);
                return Ok(());
            };
            for (share, weight) in shares(&alias).iter().zip(&weights) {
                prop_assert!((share - *weight as f64 / sum as f64).abs() < 1e-9, "{} for {} in {:?}", share, weight, weights);
            }
        }

        #[test]
        fn a_weight_of_nothing_is_never_drawn(weights in prop::collection::vec(0..3_u64, 1..50), seed: u64) {
            if let Some(alias) = Alias::new(&weights) {
                let mut rng = StdRng::seed_from_u64(seed);
                for _ in 0..100 {
                    prop_assert!(weights[alias.draw(&mut rng) as usize] > 0);
                }
            }
        }
    }
}
