//! Structs of counts that add up field by field.

use std::time::Duration;

pub trait Merge {
    /// Adds what was counted elsewhere.
    fn merge(&mut self, other: &Self);
}

impl Merge for u64 {
    fn merge(&mut self, other: &Self) {
        *self += other;
    }
}

/// The longest of all.
impl Merge for Duration {
    fn merge(&mut self, other: &Self) {
        *self = (*self).max(*other);
    }
}

impl<T: Merge, const N: usize> Merge for [T; N] {
    fn merge(&mut self, other: &Self) {
        for (sum, more) in self.iter_mut().zip(other) {
            sum.merge(more);
        }
    }
}

/// Declares a struct, each field of which is merged.
macro_rules! counts {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[$doc:meta])* pub $field:ident: $type:ty, )+ }) => {
        $(#[$meta])*
        pub struct $name { $( $(#[$doc])* pub $field: $type, )+ }

        impl $crate::chaos::counts::Merge for $name {
            fn merge(&mut self, other: &Self) {
                $( $crate::chaos::counts::Merge::merge(&mut self.$field, &other.$field); )+
            }
        }
    };
}

pub(super) use counts;
