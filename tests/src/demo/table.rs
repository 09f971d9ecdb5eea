//! What the demo has to show for itself.

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Number of the step, from 1.
    pub step: usize,
    /// What was to be seen.
    pub claim: String,
    /// What was seen instead; `None` if the claim holds.
    pub failure: Option<String>,
}

/// The rows as a table, failures in full below it.
pub fn table(rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.claim.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = format!("\n{:>4}  {:width$}  RESULT\n", "STEP", "WHAT WAS TO BE SEEN");
    for row in rows {
        let result = if row.failure.is_none() { "PASS" } else { "FAIL" };
        text += &format!("{:>4}  {:width$}  {result}\n", row.step, row.claim);
    }
    for row in rows {
        if let Some(failure) = &row.failure {
            text += &format!("\n{}. {}\n{failure}\n", row.step, row.claim);
        }
    }
    let passed = rows.iter().filter(|row| row.failure.is_none()).count();
    text + &format!("\n{passed} of {} hold", rows.len())
}
