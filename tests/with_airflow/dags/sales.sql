SELECT shop, day, count(*) AS orders, sum(amount) AS revenue
FROM orders
GROUP BY shop, day
HAVING sum(amount) >= CAST(:least AS REAL)
ORDER BY shop, day
