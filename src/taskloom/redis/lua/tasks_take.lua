-- Lease tasks that have not ended, whoever held them. Message: {ids, lease}. Returns the rows.
local taken = {}
for _, id in ipairs(message[1]) do
  local row = find(id)
  if row and not TERMINAL[row.status] then
    taken[#taken + 1] = lease(id, row, now, now + message[2])
  end
end
return taken
