use std::sync::atomic::{AtomicU32, Ordering};

/// The greatest weight of a slot, that of one which is never skipped.
const FULL: u32 = u16::MAX as u32;

/// Among how many times the mean a weight fits into one slot. At most `SPREAD + 1` slots are looked at for a pick, on
/// average.
const SPREAD: f64 = 4.0;

/// gRPC's static stride scheduler (gRFC A58): each in turn, but a slot is skipped in so many of its turns as its weight
/// is below the greatest.
///
/// A share is exact over 65,535 turns of all, and in between no slot is more than one pick ahead or behind. A weight of
/// more than four times the mean is divided among several slots that lie apart, so that most turns are not spent on
/// skipping the others; that is the one difference to gRPC, which cuts such a weight off or skips.
#[derive(Debug)]
pub(crate) struct Stride {
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    index: u32,
    weight: u16,
}

impl Stride {
    /// A schedule of these weights, none of which is negative; a weight of 0, or one that is not a number, is never
    /// picked.
    ///
    /// `None` if all of them are the same: then it is round robin.
    pub(crate) fn new(weights: &[f64]) -> Option<Self> {
        let weights = || weights.iter().map(|weight| usable(*weight));
        let first = weights().next()?;
        if weights().all(|weight| weight == first) {
            return None;
        }
        // Of the shares of the greatest, which cannot overflow.
        let greatest = weights().fold(0.0, f64::max);
        let weights = || weights().map(|weight| weight / greatest);
        let (sum, used) = weights().filter(|weight| *weight > 0.0).fold((0.0, 0.0), |(sum, n), w| (sum + w, n + 1.0));
        let most = (SPREAD * sum / used).min(1.0);

        let mut slots = Vec::with_capacity(weights().len());
        for (index, weight) in (0..).zip(weights()).filter(|(_, weight)| *weight > 0.0) {
            let parts = (weight / most).ceil();
            for part in 0..parts as u32 {
                let weight = weight / parts;
                // Where it stands: at its own place and, if divided, from there on at even distances around.
                let place = (f64::from(index) / weights().len() as f64 + f64::from(part) / parts).fract();
                slots.push((place, index, weight));
            }
        }
        slots.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let greatest = slots.iter().map(|slot| slot.2).fold(0.0, f64::max);
        let scale = |weight: f64| (weight / greatest * f64::from(FULL)).round().max(1.0) as u16;
        Some(Self {
            slots: slots.iter().map(|(_, index, weight)| Slot { index: *index, weight: scale(*weight) }).collect(),
        })
    }

    /// Whose turn it is. `sequence` counts the turns, and should begin at a random number, so that clients do not all
    /// begin with the same one.
    pub(crate) fn pick(&self, sequence: &AtomicU32) -> u32 {
        let count = self.slots.len() as u32;
        loop {
            let turn = sequence.fetch_add(1, Ordering::Relaxed);
            let (number, round) = (turn % count, turn / count);
            let slot = self.slots[number as usize];
            // Neighbours are half a cycle apart, so that equal ones do not skip in the same round.
            let phase = u64::from(slot.weight) * u64::from(round) + u64::from(number) * u64::from(FULL / 2);
            // The one of the greatest weight passes in each round: this ends.
            if phase % u64::from(FULL) >= u64::from(FULL - u32::from(slot.weight)) {
                return slot.index;
            }
        }
    }
}

/// Gives those without a weight (0, or no number) the mean of the others (gRFC A58).
///
/// `false` if fewer than two have a weight: then nothing is changed, and it is round robin.
pub(crate) fn fill(weights: &mut [f64]) -> bool {
    let known = || weights.iter().map(|weight| usable(*weight)).filter(|weight| *weight > 0.0);
    let count = known().count();
    if count < 2 {
        return false;
    }
    let mean = known().map(|weight| weight / count as f64).sum();
    for weight in weights.iter_mut().filter(|weight| usable(**weight) == 0.0) {
        *weight = mean;
    }
    true
}

fn usable(weight: f64) -> f64 {
    if weight.is_finite() && weight > 0.0 { weight } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(stride: &Stride, count: usize, picks: usize, start: u32) -> Vec<usize> {
        let sequence = AtomicU32::new(start);
        let mut counts = vec![0; count];
        (0..picks).for_each(|_| counts[stride.pick(&sequence) as usize] += 1);
        counts
    }

    /// The orders were computed by another implementation of gRFC A58.
    #[test]
    fn the_order_is_that_of_grpc() {
        let cases: [(&[f64], u32, &[u32]); 3] = [
            (&[1.0, 2.0, 4.0], 0, &[1, 2, 2, 1, 2, 0, 2, 1, 2, 2, 1, 2, 0, 2]),
            (&[1.0, 2.0, 4.0], 1_000_000_007, &[2, 1, 2, 0, 2, 1, 2, 2, 1, 2, 0, 2, 1, 2]),
            (&[3.0, 1.0, 1.0, 2.0], 5, &[1, 0, 3, 0, 2, 3, 0, 1, 0, 3, 0, 2, 3, 0]),
        ];
        for (weights, start, wanted) in cases {
            let (stride, sequence) = (Stride::new(weights).unwrap(), AtomicU32::new(start));
            let order: Vec<u32> = wanted.iter().map(|_| stride.pick(&sequence)).collect();
            assert_eq!(order, wanted, "{weights:?} from {start}");
        }
    }

    /// LB-05, from several beginnings and over the end of the counter.
    #[test]
    fn lb_05_weights_of_1_2_4_share_7000_picks() {
        let stride = Stride::new(&[1.0, 2.0, 4.0]).unwrap();
        for start in [0, 1, 77_777, u32::MAX - 5_000] {
            let counts = counts(&stride, 3, 7_000, start);
            for (count, wanted) in counts.iter().zip([1_000, 2_000, 4_000]) {
                assert!(count.abs_diff(wanted) <= 3, "{start}: {counts:?}");
            }
        }
    }

    #[test]
    fn equal_weights_are_round_robin() {
        for weights in [&[][..], &[3.0], &[0.5; 5], &[0.0; 3], &[f64::NAN, -1.0, f64::INFINITY]] {
            assert!(Stride::new(weights).is_none(), "{weights:?}");
        }
    }

    #[test]
    fn who_has_no_weight_is_never_picked() {
        let stride = Stride::new(&[0.0, 3.0, f64::NAN, 1.0, -7.0]).unwrap();
        let counts = counts(&stride, 5, 4_000, 9);
        assert_eq!([counts[0], counts[2], counts[4]], [0; 3]);
        assert!(counts[3].abs_diff(1_000) <= 2, "{counts:?}");
        let one = Stride::new(&[0.0, 3.0, 0.0]).unwrap();
        assert_eq!((0..9).map(|n| one.pick(&AtomicU32::new(n))).collect::<Vec<_>>(), [1; 9]);
    }

    #[test]
    fn lb_05_who_has_not_reported_gets_the_mean() {
        let cases: [(&[f64], Option<&[f64]>); 6] = [
            (&[1.0, 0.0, 3.0], Some(&[1.0, 2.0, 3.0])),
            (&[f64::NAN, 2.0, -1.0, 4.0], Some(&[3.0, 2.0, 3.0, 4.0])),
            (&[1.0, 2.0], Some(&[1.0, 2.0])),
            (&[0.0, 2.0, 0.0], None),
            (&[0.0, 0.0], None),
            (&[], None),
        ];
        for (given, wanted) in cases {
            let mut weights = given.to_vec();
            assert_eq!(fill(&mut weights), wanted.is_some(), "{given:?}");
            if let Some(wanted) = wanted {
                assert_eq!(weights, wanted, "{given:?}");
            }
        }
    }

    /// One has nearly everything, or the light ones all stand together: turns per pick stay few, and shares right.
    #[test]
    fn weights_far_apart_cost_few_turns() {
        let mut one = vec![1.0; 10_000];
        one[17] = 1e9;
        let mut some = vec![1.0; 10_000];
        some[..500].fill(1e6);
        let mut half = vec![1.0; 1_000];
        half[999] = 999.0;
        for (name, weights) in [("one", one), ("some", some), ("half", half)] {
            let (stride, sequence) = (Stride::new(&weights).unwrap(), AtomicU32::new(0));
            let picks = 10 * weights.len();
            let heavy = (0..picks).filter(|_| weights[stride.pick(&sequence) as usize] > 1.0).count() as f64;
            let turns = sequence.load(Ordering::Relaxed) as usize;
            assert!(turns <= picks * 6, "{name}: {turns} turns for {picks} picks");
            let sum: f64 = weights.iter().sum();
            let share = weights.iter().filter(|weight| **weight > 1.0).sum::<f64>() / sum;
            assert!((heavy / picks as f64 - share).abs() < 0.01, "{name}: {heavy} of {picks}, wanted {share}");
        }
    }

    #[test]
    fn the_picks_of_a_divided_weight_lie_apart() {
        let mut weights = vec![1.0; 100];
        weights[3] = 100.0;
        let (stride, sequence) = (Stride::new(&weights).unwrap(), AtomicU32::new(0));
        let picks: Vec<bool> = (0..20_000).map(|_| stride.pick(&sequence) == 3).collect();
        for window in picks.chunks(200) {
            let heavy = window.iter().filter(|heavy| **heavy).count();
            assert!(heavy.abs_diff(100) <= 30, "{heavy} of 200");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Over 65,535 rounds, exactly.
        #[test]
        fn shares_are_those_of_the_weights(weights in prop::collection::vec(0..100_u32, 1..8), start: u32) {
            let given: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let Some(stride) = Stride::new(&given) else { return Ok(()) };
            let slots: u32 = stride.slots.iter().map(|slot| u32::from(slot.weight)).sum();
            // Not over the end of the counter, where a cycle is cut off.
            let counts = counts(&stride, given.len(), slots as usize, start % (1 << 31));
            let sum = f64::from(weights.iter().sum::<u32>());
            for (count, weight) in counts.iter().zip(&given) {
                let wanted = f64::from(slots) * weight / sum;
                prop_assert!((*count as f64 - wanted).abs() <= 8.0, "{} for {}", count, wanted);
            }
        }

        #[test]
        fn any_weights_end_in_a_pick_of_one_that_has_a_weight(weights in prop::collection::vec(any::<f64>(), 0..50), start: u32) {
            if let Some(stride) = Stride::new(&weights) {
                let index = stride.pick(&AtomicU32::new(start));
                prop_assert!(usable(weights[index as usize]) > 0.0);
            }
        }
    }
}
