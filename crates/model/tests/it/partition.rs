use crate::models::{self, FALCON_180B, parse};
use model::{Cut, FalconConfig, Part, Partition, Role, ShardTensor, TensorId, TensorSpec, cut_range, shard, tensors};
use std::ops::Range;

const RANKS_MAX: usize = 16;

/// Calls `check` for every model at every tensor-parallel degree, with all its partitions.
fn for_each_world(check: impl Fn(&str, &FalconConfig, &[Partition])) {
    for (name, config) in models::all() {
        for world in 1..=RANKS_MAX {
            let ranks: Vec<_> = (0..world).map(|rank| Partition::new(&config, rank, world)).collect();
            check(&format!("{name} over {world}"), &config, &ranks);
        }
    }
}

#[test]
fn ranges_are_contiguous_and_even() {
    for total in 0..100 {
        for world in 1..=RANKS_MAX {
            let ranges: Vec<_> = (0..world).map(|rank| cut_range(total, rank, world)).collect();
            assert!(joined(&ranges).eq(0..total), "{total} over {world}");
            assert!(ranges.iter().all(|range| range.len().abs_diff(total / world) <= 1));
        }
    }
}

#[test]
fn every_query_head_is_owned_once_beside_its_kv_head() {
    for_each_world(|case, config, ranks| {
        let q_heads: Vec<_> = ranks.iter().map(|rank| rank.q_heads.clone()).collect();
        assert!(joined(&q_heads).eq(0..config.q_heads), "{case}");
        for rank in ranks {
            let groups = rank.groups.iter().map(|group| group.q_first..group.q_first + group.q_count);
            assert!(joined(&groups.collect::<Vec<_>>()).eq(rank.q_heads.clone()), "{case}");
            assert!(rank.groups.iter().map(|group| group.kv_head).eq(rank.kv_heads.clone()), "{case}");
            for group in &rank.groups {
                assert!(group.q_count > 0, "{case}");
                assert_eq!(group.q_first / config.queries_per_kv(), group.kv_head, "{case}");
                assert_eq!((group.q_first + group.q_count - 1) / config.queries_per_kv(), group.kv_head, "{case}");
            }
        }
    });
}

#[test]
fn fused_rows_are_local_groups_in_order_as_few_ranges() {
    for_each_world(|case, config, ranks| {
        for rank in ranks {
            let id = TensorId { layer: Some(0), role: Role::QueryKeyValue, part: Part::Weight };
            let rows = shard(config, rank).into_iter().find(|tensor| tensor.id == id).map_or(vec![], |t| t.rows);
            let local: Vec<usize> = rank.q_heads.clone().collect();
            let expected: Vec<usize> = local
                .chunk_by(|a, b| a / config.queries_per_kv() == b / config.queries_per_kv())
                .flat_map(|queries| fused_rows(config, queries))
                .collect();
            assert!(joined(&rows).eq(expected), "{case} rank {}", rank.rank);
            assert!(rows.windows(2).all(|pair| pair[0].end < pair[1].start), "{case}: adjacent ranges are not joined");
            let at_edges = |head: usize| head.is_multiple_of(config.queries_per_kv());
            if !local.is_empty() && at_edges(rank.q_heads.start) && at_edges(rank.q_heads.end) {
                assert_eq!(rows.len(), 1, "{case}: a cut at the edges of groups is one range");
            }
        }
    });
}

/// Rows of the fused weight for query heads of one group and for their key and value, by the layout's definition.
fn fused_rows(config: &FalconConfig, queries: &[usize]) -> Vec<usize> {
    let per_kv = config.queries_per_kv();
    let group = queries[0] / per_kv;
    let places = queries.iter().map(|query| query % per_kv).chain([per_kv, per_kv + 1]);
    let heads = places.map(|place| group * (per_kv + 2) + place);
    heads.flat_map(|head| head * config.head_dim..(head + 1) * config.head_dim).collect()
}

#[test]
fn cuts_cover_every_element_as_often_as_their_kind_says() {
    for_each_world(|case, config, ranks| {
        let shards: Vec<_> = ranks.iter().map(|rank| shard(config, rank)).collect();
        // All layers are cut alike, which the next test holds.
        for spec in tensors(config).iter().filter(|spec| spec.id.layer.unwrap_or(0) == 0) {
            let parts: Vec<_> = shards.iter().map(|shard| shard.iter().find(|tensor| tensor.id == spec.id)).collect();
            check_cover(&format!("{case}: {}", spec.id), config, ranks, spec, &parts);
        }
    });
}

fn check_cover(
    case: &str,
    config: &FalconConfig,
    ranks: &[Partition],
    spec: &TensorSpec,
    parts: &[Option<&ShardTensor>],
) {
    let columns_total = spec.shape.get(1).copied().unwrap_or(1);
    let held: Vec<_> = parts.iter().flatten().collect();
    assert!(held.iter().all(|part| part.columns_total == columns_total), "{case}");
    let rows_whole = held.iter().all(|part| part.rows == [0..spec.shape[0]]);
    let columns_whole = held.iter().all(|part| part.columns == (0..columns_total));
    let rows: Vec<_> = held.iter().flat_map(|part| part.rows.clone()).collect();
    match spec.cut {
        Cut::FfnRows | Cut::VocabRows => {
            assert!(columns_whole && joined(&rows).eq(0..spec.shape[0]), "{case}");
        }
        Cut::HeadColumns | Cut::FfnColumns => {
            let columns: Vec<_> = held.iter().map(|part| part.columns.clone()).collect();
            assert!(rows_whole && joined(&columns).eq(0..columns_total), "{case}");
        }
        Cut::HeadRows => {
            let mut times = vec![0; spec.shape[0]];
            joined(&rows).for_each(|row| times[row] += 1);
            assert!(columns_whole, "{case}");
            for (row, times) in times.into_iter().enumerate() {
                assert_eq!(times, owners(config, ranks, row / config.head_dim), "{case}: row {row}");
            }
        }
        Cut::Replicated => assert!(parts.iter().all(Option::is_some) && rows_whole && columns_whole, "{case}"),
        Cut::FirstRank => {
            assert!(parts[0].is_some() && held.len() == 1 && rows_whole && columns_whole, "{case}");
        }
    }
}

/// How many ranks hold head `head` of the fused weight: one for a query, those with any of its queries for a key or
/// value.
fn owners(config: &FalconConfig, ranks: &[Partition], head: usize) -> usize {
    let per_kv = config.queries_per_kv();
    let (group, place) = (head / (per_kv + 2), head % (per_kv + 2));
    let queries = if place < per_kv { place..place + 1 } else { 0..per_kv };
    let queries = queries.map(|query| group * per_kv + query);
    ranks.iter().filter(|rank| queries.clone().any(|query| rank.q_heads.contains(&query))).count()
}

#[test]
fn products_that_are_summed_over_ranks_add_their_bias_once() {
    for (name, config) in models::all() {
        for spec in tensors(&config).iter().filter(|spec| matches!(spec.id.role, Role::Dense | Role::Dense4hToH)) {
            let columns = if spec.id.role == Role::Dense { Cut::HeadColumns } else { Cut::FfnColumns };
            let expected = if spec.id.part == Part::Weight { columns } else { Cut::FirstRank };
            assert_eq!(spec.cut, expected, "{name}: {}", spec.id);
        }
    }
}

#[test]
fn all_layers_are_cut_alike_and_nothing_empty_is_listed() {
    for_each_world(|case, config, ranks| {
        let whole: u64 = tensors(config).iter().map(|spec| spec.elements() as u64).sum();
        assert_eq!(whole, config.parameters(), "{case}");
        for rank in ranks {
            let shard = shard(config, rank);
            let layer = |wanted: usize| -> Vec<ShardTensor> {
                let of_layer = shard.iter().filter(|tensor| tensor.id.layer == Some(wanted)).cloned();
                of_layer.map(|tensor| ShardTensor { id: TensorId { layer: Some(0), ..tensor.id }, ..tensor }).collect()
            };
            let first = layer(0);
            assert!((1..config.layers).all(|other| layer(other) == first), "{case}");
            assert!(shard.iter().all(|tensor| tensor.local_elements() > 0), "{case}");
            let elements: usize = shard.iter().map(ShardTensor::local_elements).sum();
            assert_eq!(rank.weight_bytes(config, 2), 2 * elements as u64, "{case}");
        }
    });
}

#[test]
fn falcon_180b_over_eight_is_as_large_as_planned() {
    let config = parse(FALCON_180B);
    for rank in 0..8 {
        let partition = Partition::new(&config, rank, 8);
        let bytes = partition.weight_bytes(&config, 2);
        assert!((44_600_000_000..44_900_000_000).contains(&bytes), "rank {rank}: {bytes} bytes");
        assert_eq!(partition.kv_bytes_per_token(&config, 2), 20_480, "rank {rank}");
    }
}

#[test]
#[should_panic(expected = "rank 2 of 2")]
fn a_rank_beyond_the_world_is_our_bug() {
    let _ = Partition::new(&parse(FALCON_180B), 2, 2);
}

/// The numbers of all ranges, one after the other.
fn joined(ranges: &[Range<usize>]) -> impl Iterator<Item = usize> {
    ranges.iter().cloned().flatten()
}
