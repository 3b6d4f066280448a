-- SNDS (DCIR and PMSI-MCO) -> the contract `parcours` of the pilot parcours_idm: the steps of care after a first stay
-- for a heart attack, and what ends the follow-up of 24 months.
CREATE TEMP VIEW people AS
SELECT
    BEN_NIR_PSA AS patient,
    CASE WHEN BEN_DCD_DTE > DATE '1600-01-01' THEN BEN_DCD_DTE END AS death,  -- 1600-01-01: alive
    CASE
        WHEN BEN_RES_DPT IN ('022', '029', '035', '056') THEN 'bretagne'
        WHEN BEN_RES_DPT IN ('075', '077', '078', '091', '092', '093', '094', '095') THEN 'idf'
        WHEN BEN_RES_DPT IN ('009', '011', '012', '030', '031', '032', '034', '046', '048', '065', '066', '081', '082')
        THEN 'occitanie'
        WHEN BEN_RES_DPT IN ('004', '005', '006', '013', '083', '084') THEN 'paca'
    END AS region
FROM ir_ben_r;

CREATE TEMP VIEW stays AS
SELECT c.NIR_ANO_17 AS patient, c.EXE_SOI_DTD AS day, left(b.GRG_GHM, 5) AS root
FROM t_mcoaab AS b
JOIN t_mcoaac AS c USING (ETA_NUM, RSA_NUM)
WHERE in_codes(b.DGN_PAL, 'infarctus') AND NOT starts_with(b.GRG_GHM, '90');  -- 90: a stay with a mistake

CREATE TEMP VIEW first_stays AS
SELECT patient, region, death, min(day) AS begun
FROM stays
JOIN people USING (patient)
WHERE region IS NOT NULL
GROUP BY ALL;

CREATE TEMP VIEW deliveries AS
SELECT prs.BEN_NIR_PSA AS patient, prs.EXE_SOI_DTD AS day
FROM er_pha_f AS pha
JOIN er_prs_f AS prs USING (
    DCT_ORD_NUM, FLX_DIS_DTD, FLX_EMT_NUM, FLX_EMT_ORD, FLX_EMT_TYP, FLX_TRT_DTD, ORG_CLE_NUM, PRS_ORD_NUM, REM_TYP_AFF
)
JOIN ir_pha_r AS drug ON drug.PHA_CIP_C13 = pha.PHA_PRS_C13
WHERE starts_with(drug.PHA_ATC_CLA, 'C10AA') AND pha.PHA_ACT_QSN > 0;  -- statins; a negative quantity takes one back

CREATE TEMP VIEW visits AS
SELECT BEN_NIR_PSA AS patient, EXE_SOI_DTD AS day
FROM er_prs_f
WHERE PRS_NAT_REF IN ('1111', '1112', '1115') AND DPN_QLF <> '71';  -- consultations; 71: in a hospital's own count

CREATE TEMP VIEW steps AS
SELECT patient, 'usic' AS acte, min(day) AS day FROM stays GROUP BY patient
UNION ALL
SELECT patient, 'coronarographie', min(day) FROM stays WHERE root IN ('05K05', '05K06', '05K10') GROUP BY patient
UNION ALL
SELECT patient, 'angioplastie', min(day) FROM stays WHERE root IN ('05K05', '05K06') GROUP BY patient
UNION ALL
SELECT patient, 'statine', min(day) FROM deliveries JOIN first_stays USING (patient) WHERE day >= begun GROUP BY patient
UNION ALL
SELECT patient, 'consultation', min(day) FROM visits JOIN first_stays USING (patient) WHERE day > begun GROUP BY patient;

CREATE TEMP VIEW ends AS
SELECT patient, begun, death, min(stays.day) FILTER (stays.day > begun) AS readmission
FROM first_stays
JOIN stays USING (patient)
GROUP BY ALL;

CREATE TEMP VIEW outcomes AS
SELECT
    patient,
    least(24, date_sub('month', begun, least(death, readmission, begun + INTERVAL 24 MONTH))) AS suivi,
    CASE
        WHEN least(death, readmission) IS NULL OR least(death, readmission) > begun + INTERVAL 24 MONTH THEN 'aucune'
        WHEN readmission <= death OR death IS NULL THEN 'readmission'
        ELSE 'deces'
    END AS issue
FROM ends;

SELECT
    patient,
    acte,
    day - begun AS jour,
    region,
    CASE WHEN acte = 'usic' THEN suivi END AS suivi,
    CASE WHEN acte = 'usic' THEN issue END AS issue
FROM steps
JOIN first_stays USING (patient)
JOIN outcomes USING (patient)
WHERE day - begun <= 400;
