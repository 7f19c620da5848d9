"""What pg_catalog offers that is safe on a replica although its volatility does not say so.

Immutable functions of pg_catalog are trusted. The others were read one by one: they are safe when
they change nothing and answer from replicated data alone, not by session, role or server. What a
later version adds is missing here and goes to the primary.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STABLE: Final = _words(
    """
    aclexplode age array_to_json array_to_string col_description concat concat_ws convert
    convert_from convert_to current_database date date_add date_part date_subtract date_trunc
    enum_first enum_last enum_range extract format format_type generate_series
    get_current_ts_config getdatabaseencoding in_range json_agg json_agg_strict json_build_array
    json_build_object json_object_agg json_object_agg_strict json_object_agg_unique
    json_object_agg_unique_strict json_populate_record json_populate_recordset json_to_record
    json_to_recordset json_to_tsvector jsonb_agg jsonb_agg_strict jsonb_build_array
    jsonb_build_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
    jsonb_object_agg_unique_strict jsonb_path_exists_tz
    jsonb_path_match_tz jsonb_path_query_array_tz jsonb_path_query_first_tz jsonb_path_query_tz
    jsonb_populate_record jsonb_populate_record_valid jsonb_populate_recordset jsonb_to_record
    jsonb_to_recordset jsonb_to_tsvector length make_timestamptz money now numeric obj_description
    oidvectortypes overlaps pg_basetype pg_char_to_encoding pg_collation_for
    pg_collation_is_visible pg_column_size pg_conversion_is_visible pg_describe_object
    pg_encoding_to_char pg_function_is_visible pg_get_constraintdef pg_get_expr
    pg_get_function_arg_default pg_get_function_arguments pg_get_function_identity_arguments
    pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef
    pg_get_keywords pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef
    pg_get_replica_identity_index pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef
    pg_get_userbyid pg_get_viewdef pg_identify_object pg_identify_object_as_address
    pg_index_column_has_property pg_index_has_property pg_indexam_has_property
    pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table
    pg_relation_is_publishable pg_relation_is_updatable pg_sequence_parameters
    pg_statistics_obj_is_visible pg_table_is_visible pg_ts_config_is_visible
    pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible
    pg_typeof phraseto_tsquery plainto_tsquery quote_literal quote_nullable regclass row_to_json
    shobj_description statement_timestamp time timestamp timestamptz timetz timezone to_char
    to_date to_json to_jsonb to_number to_regclass to_regcollation to_regnamespace to_regoper
    to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_timestamp to_tsquery
    to_tsvector transaction_timestamp ts_headline websearch_to_tsquery xml
    """
)
"""Stable functions that answer from replicated data, the clock or their arguments."""

STABLE_IN_C: Final = _words(
    """
    ST_AsGeoJsonRow similarity_op strict_word_similarity_commutator_op strict_word_similarity_op
    unaccent_dict word_similarity_commutator_op word_similarity_op
    """
)
"""Stable functions of PostGIS, pg_trgm and unaccent, by their symbol in C, that run no SQL."""

VOLATILE: Final = _words(
    """
    array_sample array_shuffle clock_timestamp gen_random_uuid pg_partition_ancestors
    pg_partition_tree pg_sleep pg_sleep_for pg_sleep_until random random_normal timeofday
    """
)
"""Volatile functions without any effect: chance, the clock, waiting, partitions."""

VIEWS: Final = _words(
    """
    pg_group pg_indexes pg_matviews pg_policies pg_publication_tables pg_roles pg_rules pg_tables
    pg_views
    """
)
"""Views of pg_catalog that show replicated catalogues, not the state of a server."""

IMPLIED_OPERATORS: Final = frozenset(
    {"=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"}
)
"""Operators that a text may use without naming them: IN, BETWEEN, LIKE, USING, DISTINCT."""
