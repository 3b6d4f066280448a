-- OMOP CDM 5.4 -> the contract `periodes` of the pilot pimpon: days of observation and bleedings of each person, by
-- exposure to two drugs and by season. A day before an exposure (14 days) has a window of its own.
CREATE TEMP VIEW days AS
SELECT
    person_id,
    CAST(unnest(generate_series(
        CAST(observation_period_start_date AS TIMESTAMP),
        CAST(observation_period_end_date AS TIMESTAMP),
        INTERVAL 1 DAY
    )) AS DATE) AS day
FROM (
    SELECT
        person_id,
        CAST(observation_period_start_date AS DATE) AS observation_period_start_date,
        CAST(observation_period_end_date AS DATE) AS observation_period_end_date
    FROM observation_period
)
WHERE person_id IN (SELECT person_id FROM person);

-- 1310149: warfarin; 1309944: amiodarone (standard concepts of RxNorm)
CREATE TEMP VIEW exposures AS
SELECT
    person_id,
    drug_concept_id = '1310149' AS is_a,
    CAST(drug_exposure_start_date AS DATE) AS first,
    CAST(drug_exposure_end_date AS DATE) AS last
FROM drug_exposure
WHERE drug_concept_id IN ('1310149', '1309944');

-- 437312: bleeding; 192671: gastrointestinal hemorrhage (standard concepts of SNOMED)
CREATE TEMP VIEW bleedings AS
SELECT person_id, CAST(condition_start_date AS DATE) AS day, count(DISTINCT condition_occurrence_id) AS events
FROM condition_occurrence
WHERE condition_concept_id IN ('437312', '192671')
GROUP BY ALL;

CREATE TEMP VIEW exposed AS
SELECT
    person_id,
    day,
    coalesce(bool_or(day BETWEEN first AND last AND is_a), FALSE) AS a,
    coalesce(bool_or(day BETWEEN first AND last AND NOT is_a), FALSE) AS b,
    coalesce(bool_or(day BETWEEN first - 14 AND first - 1), FALSE) AS is_before
FROM days
LEFT JOIN exposures USING (person_id)
GROUP BY person_id, day;

SELECT
    person_id AS personne,
    CASE
        WHEN a AND b THEN 'a_et_b'
        WHEN a THEN 'a_seul'
        WHEN b THEN 'b_seul'
        WHEN is_before THEN 'avant'
        ELSE 'aucune'
    END AS fenetre,
    ['hiver', 'printemps', 'ete', 'automne'][month(day) % 12 // 3 + 1] AS saison,
    count(*) AS jours,
    CAST(sum(coalesce(events, 0)) AS INTEGER) AS evenements
FROM exposed
LEFT JOIN bleedings USING (person_id, day)
GROUP BY ALL;
