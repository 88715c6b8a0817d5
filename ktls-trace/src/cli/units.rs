//! Times, sizes and network namespaces as people write them.

use std::{path::Path, time::Duration};

use ktls_trace::kernel::namespaces::{NAMED, Which};

/// Bytes, with K, M or G for powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let number: u64 = digits.parse().map_err(|_not_a_number| not_a_size(text))?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err(not_a_size(text)),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text} is too big"))
}

fn not_a_size(text: &str) -> String {
    format!("{text} is not a size (a whole number, with K, M or G if wanted: 512K, 4M)")
}

/// As [`parse_size`], for what the kernel takes as an `int`.
pub(crate) fn parse_size32(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?)
        .ok()
        .filter(|bytes| *bytes <= i32::MAX.unsigned_abs())
        .ok_or_else(|| format!("{text} is too big"))
}

/// A time with its unit: ms, s, m or h; a plain number is seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a time (6s, 500ms, 2m)");
    let (digits, unit) = split_unit(text);
    let number: f64 = digits.parse().map_err(|_not_a_number| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_out_of_range| wrong())
}

/// As [`parse_time`], but between 1 ms and an hour.
pub(crate) fn parse_positive_time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time < Duration::from_millis(1) || time > Duration::from_hours(1) {
        return Err(format!("{text} is not between 1ms and 1h"));
    }
    Ok(time)
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}

/// `all`, `self`, or a network namespace by its file or its name in [`NAMED`].
pub(crate) fn parse_netns(text: &str) -> Result<Which, String> {
    match text {
        "" => Err("empty: say all, self or a file such as /run/netns/NAME".to_owned()),
        "all" => Ok(Which::All),
        "self" => Ok(Which::Own),
        path => {
            // As `ip netns` names one.
            let named = Path::new(NAMED).join(path);
            let is_name = !path.contains('/') && named.exists();
            Ok(Which::Path(if is_name { named } else { path.into() }))
        }
    }
}
