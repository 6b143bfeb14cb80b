//! Buckets of the relative position bias.

/// The bucket of a key that lies `offset` tokens after the query (negative: before it).
///
/// Half of the buckets serve each direction. Within a direction the first half of them hold one
/// distance each, the rest grow logarithmically up to `max_distance`, and everything beyond shares
/// the last one.
pub(crate) fn bucket(offset: i64, num_buckets: usize, max_distance: usize) -> i64 {
    let per_direction = (num_buckets / 2) as i64;
    let exact = per_direction / 2;
    let start = if offset > 0 { per_direction } else { 0 };
    let distance = offset.abs();
    if distance < exact {
        return start + distance;
    }
    // In f32, as the reference computes it: the truncation below is sensitive to rounding.
    let range = (max_distance as f64 / exact as f64).ln() as f32;
    let position = (distance as f32 / exact as f32).ln() / range * (per_direction - exact) as f32;
    start + (exact + position as i64).min(per_direction - 1)
}

/// Buckets of all query-key pairs of a sequence, `[query, key]` in row-major order.
pub(crate) fn buckets(length: usize, num_buckets: usize, max_distance: usize) -> Vec<i64> {
    let length = length as i64;
    let row: Vec<i64> = (1 - length..length)
        .map(|offset| bucket(offset, num_buckets, max_distance))
        .collect();
    let width = length as usize;
    (0..width)
        .flat_map(|query| {
            row[width - 1 - query..2 * width - 1 - query]
                .iter()
                .copied()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_distances_have_buckets_of_their_own() {
        for distance in 0..8 {
            assert_eq!(bucket(-distance, 32, 128), distance);
        }
        for distance in 1..8 {
            assert_eq!(bucket(distance, 32, 128), 16 + distance);
        }
    }

    #[test]
    fn large_distances_grow_by_the_square_root_of_two() {
        // With 8 logarithmic buckets between 8 and 128, bucket 8 + j starts at 8 · 2^(j/2).
        for distance in 8i64..600 {
            let expected = (0..8)
                .rev()
                .find(|j| distance * distance >= 64 << j)
                .map_or(0, |j| 8 + j);
            assert_eq!(bucket(-distance, 32, 128), expected, "{distance}");
            assert_eq!(bucket(distance, 32, 128), 16 + expected, "{distance}");
        }
    }

    #[test]
    fn the_table_is_indexed_by_query_then_key() {
        let table = buckets(5, 32, 128);
        for query in 0..5 {
            for key in 0..5 {
                assert_eq!(
                    table[query * 5 + key],
                    bucket(key as i64 - query as i64, 32, 128)
                );
            }
        }
    }
}
