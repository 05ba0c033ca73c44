//! What is a number on a command line? One within its bounds; who gives another is told both, and what is counted.

use std::{fmt::Display, str::FromStr};

/// Takes a number from `least` to `most` of `unit`, such as "orders a minute".
pub fn between<T>(
    least: T,
    most: T,
    unit: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse::<T>().ok();
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("give {least} to {most} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_told_them_and_the_unit() {
        let seconds = between(1_u32, 600, "seconds");
        assert_eq!(seconds("600"), Ok(600));
        for wrong in ["0", "601", "-1", "1.5", "", "x"] {
            assert_eq!(seconds(wrong), Err("give 1 to 600 seconds".to_owned()), "{wrong}");
        }
        let minutes = between(0.1, 1_440.0, "minutes");
        assert_eq!(minutes("0.333"), Ok(0.333));
        for wrong in ["0", "NaN", "inf"] {
            assert_eq!(
                minutes(wrong),
                Err("give 0.1 to 1440 minutes".to_owned()),
                "{wrong}"
            );
        }
    }
}
