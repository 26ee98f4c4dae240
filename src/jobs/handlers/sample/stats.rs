//! Sample `stats`: a typical nightly report about a table.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{data::orders_csv, steps::Steps};
use crate::jobs::handler::TaskError;

/// Rows between two reports.
const CHUNK: usize = 500;

/// The columns that count.
#[derive(Deserialize)]
struct Order {
    region: String,
    quantity: u32,
    unit_price: f64,
}

pub(super) fn run(steps: &Steps) -> Result<Value, TaskError> {
    describe(orders_csv(), steps)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn describe(table: &[u8], steps: &Steps) -> Result<Value, TaskError> {
    let mut reader = csv::Reader::from_reader(table);
    let mut rows = reader.deserialize::<Order>();
    let (mut values, mut by_region) = (Vec::new(), BTreeMap::<String, f64>::new());
    while let Some(order) = rows.next() {
        let order = order.map_err(|error| TaskError::fatal("bad_table", error.to_string()))?;
        let value = f64::from(order.quantity) * order.unit_price;
        values.push(value);
        *by_region.entry(order.region).or_default() += value;
        if values.len() % CHUNK == 0 {
            let read = rows.reader().position().byte() as f64 / table.len() as f64;
            // The last tenth is for the computation.
            steps.done((read * 90.0).floor(), format!("{} rows", values.len()))?;
        }
    }
    let total: f64 = values.iter().sum();
    let count = values.len() as f64;
    let mean = total / count.max(1.0);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count.max(1.0);
    values.sort_unstable_by(f64::total_cmp);
    steps.done(95.0, "sorted")?;
    // The nearest rank: the smallest value that at least 95 of 100 do not exceed.
    let rank = (values.len() * 95).div_ceil(100);
    Ok(json!({
        "count": values.len(),
        "total": rounded(total),
        "mean": rounded(mean),
        "min": values.first().copied().map(rounded),
        "max": values.last().copied().map(rounded),
        "stddev": rounded(variance.sqrt()),
        "p95": rank.checked_sub(1).map(|index| rounded(values[index])),
        "totalByRegion": by_region.into_iter().map(|(region, total)| (region, rounded(total))).collect::<BTreeMap<_, _>>(),
    }))
}

/// To cents.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn figures(table: &str) -> Result<Value, TaskError> {
        let (reports, _keep) = mpsc::channel(100);
        describe(table.as_bytes(), &Steps { reports, cancel: CancellationToken::new() })
    }

    #[test]
    fn figures_are_those_of_a_table_that_can_be_checked_by_hand() {
        let orders = (1..=20).map(|n| (n, if n % 2 == 0 { "east" } else { "west" }));
        let rows: Vec<_> = orders.map(|(n, region)| format!("{n},2025-01-01,{region},rope,{n},0.50\n")).collect();
        let table = format!("id,date,region,product,quantity,unit_price\n{}", rows.concat());
        assert_eq!(
            figures(&table),
            Ok(json!({
                "count": 20, "total": 105.0, "mean": 5.25, "min": 0.5, "max": 10.0, "stddev": 2.88, "p95": 9.5,
                "totalByRegion": {"east": 55.0, "west": 50.0},
            }))
        );
    }

    #[test]
    fn an_empty_table_has_no_extremes_and_a_broken_one_is_an_error() {
        let empty = figures("id,date,region,product,quantity,unit_price\n").expect("it is a table");
        assert_eq!((&empty["count"], &empty["min"], &empty["p95"]), (&json!(0), &Value::Null, &Value::Null));
        let error =
            figures("id,date,region,product,quantity,unit_price\n1,d,east,rope,many,0.5\n").expect_err("no number");
        assert_eq!(error.code, "bad_table");
    }
}
