-- Résumés de passage aux urgences (national format) -> the contract `urgences` of the pilot oscour.
-- `code_set` gives the first of the sets of `codes:` in node.yaml that a diagnosis is in; their names have _ for -.
CREATE TEMP VIEW departements AS
SELECT * FROM (VALUES
    ('ara', ['01', '03', '07', '15', '26', '38', '42', '43', '63', '69', '73', '74']),
    ('bfc', ['21', '25', '39', '58', '70', '71', '89', '90']),
    ('bre', ['22', '29', '35', '56']),
    ('cvl', ['18', '28', '36', '37', '41', '45']),
    ('cor', ['20']),
    ('ges', ['08', '10', '51', '52', '54', '55', '57', '67', '68', '88']),
    ('hdf', ['02', '59', '60', '62', '80']),
    ('idf', ['75', '77', '78', '91', '92', '93', '94', '95']),
    ('nor', ['14', '27', '50', '61', '76']),
    ('naq', ['16', '17', '19', '23', '24', '33', '40', '47', '64', '79', '86', '87']),
    ('occ', ['09', '11', '12', '30', '31', '32', '34', '46', '48', '65', '66', '81', '82']),
    ('pdl', ['44', '49', '53', '72', '85']),
    ('pac', ['04', '05', '06', '13', '83', '84']),
    ('gua', ['971']), ('mar', ['972']), ('guy', ['973']), ('reu', ['974']), ('may', ['976'])
) AS t(region, listed);

CREATE TEMP VIEW visits AS
SELECT
    ENTREE AS day,
    date_sub('year', NAISSANCE, ENTREE) AS years,
    DP AS diagnosis,
    CASE WHEN starts_with(CP, '97') THEN left(CP, 3) ELSE left(CP, 2) END AS departement
FROM rpu;

SELECT
    (day - DATE '2018-01-01') // 7 AS semaine,
    region,
    CASE
        WHEN years < 5 THEN '0-4'
        WHEN years < 15 THEN '5-14'
        WHEN years < 65 THEN '15-64'
        WHEN years < 80 THEN '65-79'
        WHEN years >= 80 THEN '80+'
    END AS age,
    CASE WHEN diagnosis <> '' THEN coalesce(replace(code_set(diagnosis), '_', '-'), 'autre') END AS syndrome
FROM visits
LEFT JOIN departements ON list_contains(listed, departement)
WHERE day BETWEEN DATE '2018-01-01' AND DATE '2026-12-20';
