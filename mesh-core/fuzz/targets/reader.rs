//! Makes decisions and texts out of the bytes of a fuzzer.

/// What is left of the input. Behind its end it gives zeros.
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    /// A number in `0..bound`, from one byte.
    pub fn below(&mut self, bound: usize) -> usize {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*byte) % bound
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }
}
